//! Attributes of a tag: each of them known, once, and of its kind.

use quick_xml::events::BytesStart;
use quick_xml::events::attributes::AttrError;

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
            let attribute = attribute.map_err(|error| format!("<{name}>: {}", told(&error)))?;
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
        let digits = text.strip_prefix('+').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let text = shown(text);
            return Err(format!("{name}=\"{text}\": a whole number is expected"));
        }
        let number: Option<N> = text
            .parse()
            .ok()
            .and_then(|number: u64| number.try_into().ok());
        number.ok_or_else(|| format!("{name}=\"{}\": too large", shown(text)))
    }

    /// A number that need not be there.
    pub fn number_or<N: TryFrom<u64>>(&self, name: &'static str, other: N) -> Result<N, Wrong> {
        if self.values.iter().any(|(key, _)| *key == name) {
            return self.number(name);
        }
        Ok(other)
    }
}

/// What is wrong with how an attribute is written; where its tag is says the caller.
fn told(error: &AttrError) -> &'static str {
    match error {
        AttrError::ExpectedEq(_) => "an attribute without a value",
        AttrError::ExpectedValue(_) => "an attribute without a value after its =",
        AttrError::UnquotedValue(_) => "a value that is not in quotes",
        AttrError::ExpectedQuote(..) => "a value without its closing quote",
        AttrError::Duplicated(..) => "an attribute that comes twice",
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
