//! What a client sends.

/// A request as the host has it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Names and values, pseudo-headers among them.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body, where there is one.
    pub body: Option<Vec<u8>>,
}

impl Request {
    /// `GET` of a path.
    pub fn get(path: impl Into<Vec<u8>>) -> Self {
        Self::new("GET", "api.example.com", path)
    }

    /// A request without a body.
    pub fn new(method: &str, authority: &str, path: impl Into<Vec<u8>>) -> Self {
        let request = Self::default().with(":authority", authority).with(":path", path).with(":method", method);
        request.with(":scheme", "http").with("x-forwarded-proto", "http")
    }

    /// A body that is priced by the token, on this path.
    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        let request = Self::new("POST", "api.example.com", path).with("content-type", "application/json");
        Self { body: Some(body.into()), ..request }
    }

    /// The same with a header more.
    pub fn with(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}
