//! A reader of JSON that is not the filter's: RFC 8259 to the letter, keeping names that stand twice, and numbers as text.

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number as it is written.
    Number(String),
    /// A text, with replacement characters for what is none.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object, in the order it is written.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads a whole text; `None` where it is not JSON.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut reader = Reader(text);
        let value = reader.value()?;
        reader.space();
        reader.0.is_empty().then_some(value)
    }

    /// All that an object has under a name.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Self> {
        let fields = if let Self::Object(fields) = self { fields.as_slice() } else { &[] };
        fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value)
    }

    /// What an object has under a name; `None` for nothing and for `null`, and where the name stands twice.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let mut all = self.all(name);
        let first = all.next().filter(|value| **value != Self::Null);
        if all.next().is_some() { None } else { first }
    }

    /// The text under a name.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether each of these names stands at most once.
    pub fn has_each_once(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.all(name).count() <= 1)
    }

    /// The elements of a list; none where it is not one.
    pub fn list(&self) -> &[Self] {
        if let Self::List(list) = self { list } else { &[] }
    }

    /// The value as text.
    pub fn write(&self) -> String {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(flag) => flag.to_string(),
            Self::Number(number) => number.clone(),
            Self::Text(text) => quote(text),
            Self::List(list) => format!("[{}]", list.iter().map(Self::write).collect::<Vec<_>>().join(",")),
            Self::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| format!("{}:{}", quote(name), value.write()));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn space(&mut self) {
        self.take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    }

    /// Takes these bytes, if they are next.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let rest = self.0.strip_prefix(bytes);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn take_while(&mut self, is_wanted: fn(&u8) -> bool) -> &[u8] {
        let end = self.0.iter().position(|byte| !is_wanted(byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn value(&mut self) -> Option<Json> {
        self.space();
        match self.0.first()? {
            b'n' => self.take(b"null").then_some(Json::Null),
            b't' => self.take(b"true").then_some(Json::Bool(true)),
            b'f' => self.take(b"false").then_some(Json::Bool(false)),
            b'"' => self.string().map(Json::Text),
            b'[' => self.list(),
            b'{' => self.object(),
            _ => self.number(),
        }
    }

    fn list(&mut self) -> Option<Json> {
        let mut list = Vec::new();
        self.take(b"[");
        self.space();
        if self.take(b"]") {
            return Some(Json::List(list));
        }
        loop {
            list.push(self.value()?);
            self.space();
            match (self.take(b","), self.take(b"]")) {
                (true, false) => {}
                (false, true) => return Some(Json::List(list)),
                _ => return None,
            }
        }
    }

    fn object(&mut self) -> Option<Json> {
        let mut fields = Vec::new();
        self.take(b"{");
        self.space();
        if self.take(b"}") {
            return Some(Json::Object(fields));
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            fields.push((name, self.take(b":").then(|| self.value())??));
            self.space();
            match (self.take(b","), self.take(b"}")) {
                (true, false) => {}
                (false, true) => return Some(Json::Object(fields)),
                _ => return None,
            }
        }
    }

    /// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`
    fn number(&mut self) -> Option<Json> {
        let start = self.0;
        self.take(b"-");
        let whole = self.take_while(u8::is_ascii_digit);
        if whole.is_empty() || (whole.len() > 1 && whole.starts_with(b"0")) {
            return None;
        }
        if self.take(b".") && self.take_while(u8::is_ascii_digit).is_empty() {
            return None;
        }
        if self.take(b"e") || self.take(b"E") {
            let _has_sign = self.take(b"+") || self.take(b"-");
            if self.take_while(u8::is_ascii_digit).is_empty() {
                return None;
            }
        }
        let number = &start[..start.len() - self.0.len()];
        Some(Json::Number(String::from_utf8_lossy(number).into_owned()))
    }

    fn string(&mut self) -> Option<String> {
        if !self.take(b"\"") {
            return None;
        }
        let mut bytes = Vec::new();
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(String::from_utf8_lossy(&bytes).into_owned()),
                b'\\' => bytes.extend_from_slice(self.escape()?.to_string().as_bytes()),
                0..0x20 => return None,
                byte => bytes.push(*byte),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(*byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit()?;
                let rest = self.0;
                let units = match (0xd800..0xdc00).contains(&unit) && self.take(b"\\u") {
                    true => vec![unit, self.unit()?],
                    false => vec![unit],
                };
                let mut letters = char::decode_utf16(units.iter().copied());
                let letter = letters.next()?.unwrap_or(char::REPLACEMENT_CHARACTER);
                if letters.next().is_some() {
                    // Half a letter, and then another one.
                    self.0 = rest;
                }
                letter
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u16> {
        let (digits, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.contains('+'))?;
        u16::from_str_radix(digits, 16).ok()
    }
}
