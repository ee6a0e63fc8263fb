//! Attributes of a tag: each of them known, once, and of its kind.

use quick_xml::events::BytesStart;

/// What is wrong, to be put beside where it is.
pub(super) type Wrong = String;

/// The attributes of a tag that may have these.
pub(super) struct Attributes {
    tag: String,
    values: Vec<(&'static str, String)>,
}

impl Attributes {
    /// Reads them. `known` are those that may be there.
    pub fn read(tag: &BytesStart<'_>, known: &[&'static str]) -> Result<Self, Wrong> {
        let name = shown(tag.name().as_ref());
        let mut values: Vec<(&'static str, String)> = Vec::with_capacity(known.len());
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let key = attribute.key.as_ref();
            let Some(key) = known.iter().find(|known| **known == key) else {
                return Err(format!("<{name}> has no attribute {}", shown(key)));
            };
            values.push((key, attribute.value.into_owned()));
        }
        Ok(Self { tag: name, values })
    }

    pub fn text(&self, name: &'static str) -> Result<&str, Wrong> {
        let found = self.values.iter().find(|(key, _)| *key == name);
        let found = found.map(|(_, value)| value.as_str());
        found.ok_or_else(|| format!("<{}> lacks the attribute {name}", self.tag))
    }

    /// A number that has to be there.
    pub fn number<N: TryFrom<u64>>(&self, name: &'static str) -> Result<N, Wrong> {
        let text = self.text(name)?;
        let number: Result<u64, _> = text.parse();
        let number = number.map_err(|error| format!("{name}=\"{}\": {error}", shown(text)))?;
        N::try_from(number).map_err(|_| format!("{name}=\"{number}\": too large"))
    }

    /// A number that need not be there.
    pub fn number_or<N: TryFrom<u64>>(&self, name: &'static str, other: N) -> Result<N, Wrong> {
        if self.values.iter().any(|(key, _)| *key == name) {
            return self.number(name);
        }
        Ok(other)
    }
}

/// As much of a word as belongs into a message.
pub(super) fn shown(word: &str) -> String {
    const MOST: usize = 40;
    let mut short: String = word.chars().take(MOST).collect();
    if short.len() < word.len() {
        short.push('…');
    }
    short.escape_debug().to_string()
}
