//! Just enough JSON to read a fixture: no escapes, no fractions, no signs.

/// A value.
#[derive(Debug)]
pub enum Json {
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value that a whole text is.
    pub fn parse(text: &str) -> Self {
        let mut rest = text;
        let value = value(&mut rest);
        assert_eq!(rest.trim(), "", "something follows the value");
        value
    }

    pub fn field(&self, name: &str) -> &Self {
        let Self::Object(fields) = self else {
            panic!("not an object: {self:?}");
        };
        let found = fields.iter().find(|field| field.0 == name);
        &found.unwrap_or_else(|| panic!("no field {name}")).1
    }

    pub fn list(&self) -> &[Self] {
        match self {
            Self::List(values) => values,
            other => panic!("not a list: {other:?}"),
        }
    }

    pub fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            other => panic!("not a number: {other:?}"),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            other => panic!("not a text: {other:?}"),
        }
    }
}

/// Takes `token` off the front of `rest`, if it is there.
fn skip(rest: &mut &str, token: char) -> bool {
    *rest = rest.trim_start();
    let after = rest.strip_prefix(token);
    *rest = after.unwrap_or(rest);
    after.is_some()
}

fn value(rest: &mut &str) -> Json {
    if skip(rest, '[') {
        Json::List(members(rest, ']', value))
    } else if skip(rest, '{') {
        Json::Object(members(rest, '}', |rest| {
            let name = value(rest).text().to_owned();
            assert!(skip(rest, ':'), "no colon after {name}");
            (name, value(rest))
        }))
    } else if skip(rest, '"') {
        let (text, after) = rest.split_once('"').expect("a closing quote");
        assert!(!text.contains('\\'), "an escape in {text}");
        *rest = after;
        Json::Text(text.to_owned())
    } else {
        let end = rest.find(|c: char| !c.is_ascii_digit());
        let (digits, after) = rest.split_at(end.unwrap_or(rest.len()));
        *rest = after;
        Json::Number(digits.parse().expect("a number"))
    }
}

fn members<T>(rest: &mut &str, close: char, member: impl Fn(&mut &str) -> T) -> Vec<T> {
    let mut all = Vec::new();
    while !skip(rest, close) {
        assert!(all.is_empty() || skip(rest, ','), "no comma at {rest:.20}");
        all.push(member(rest));
    }
    all
}
