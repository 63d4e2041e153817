//! Who may ask: a bearer token, or the session that it was exchanged for; without a token, programs of this machine.

use super::problem::Problem;
use super::rate::Rate;
use axum::http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest as _, Sha256};

/// The session's cookie: pages hold it, so that pictures and events need no header.
const COOKIE: &str = "captionfleet_session";
/// How long a session lasts, in seconds.
const SESSION: u32 = 12 * 3600;

/// Who may ask, and how often.
pub struct Access {
    /// Digest of the token, if there is one.
    token: Option<[u8; 32]>,
    /// The session's name, which tells nothing of the token.
    session: String,
    /// How often.
    pub rate: Rate,
}

impl Access {
    /// With a `token` everyone must have it.
    pub fn new(token: Option<&str>, rate: Rate) -> Self {
        let session = Sha256::digest(format!("captionfleet session\0{}", token.unwrap_or_default()));
        Self { token: token.map(digest), session: hex::encode(session), rate }
    }

    /// Whether a token is needed.
    pub fn needs_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether this is the token. Digests are compared, so that the time taken tells nothing.
    pub fn is_token(&self, given: &str) -> bool {
        self.token.is_some_and(|token| token == digest(given))
    }

    /// Whether the request may be answered.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if !self.needs_token() {
            return Ok(());
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if bearer.is_some_and(|(_, token)| self.is_token(token.trim())) || self.has_session(headers) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this service wants its token: send it as `Authorization: Bearer TOKEN`, or sign in on its pages",
        ))
    }

    fn has_session(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == COOKIE && digest(value) == digest(&self.session))
    }

    /// The header that begins a session.
    pub fn cookie(&self, headers: &HeaderMap) -> String {
        format!("{COOKIE}={}; Max-Age={SESSION}; {}", self.session, attributes(headers))
    }

    /// The header that ends one.
    pub fn no_cookie(headers: &HeaderMap) -> String {
        format!("{COOKIE}=; Max-Age=0; {}", attributes(headers))
    }

    /// Refuses what another site's page makes a browser send. Without a token the name of the host counts as well:
    /// a page of a name that suddenly means this machine could read everything otherwise.
    pub fn check_origin(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
        let refused = |detail: String| Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail));
        let host = text(header::HOST).unwrap_or_default();
        if !self.needs_token() && !is_loopback_name(host) {
            return refused(format!(
                "without a token this service answers to localhost only, not to `{host}`; give it a token to use other names"
            ));
        }
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        if text(header::ORIGIN).is_some() && origin != Some(host) {
            return refused("pages of other sites may not change anything here".to_owned());
        }
        Ok(())
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// `Secure` as far as a proxy in front says that the browser uses TLS.
fn attributes(headers: &HeaderMap) -> &'static str {
    let secure = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes() == b"https");
    if secure { "Path=/; HttpOnly; SameSite=Strict; Secure" } else { "Path=/; HttpOnly; SameSite=Strict" }
}

/// Whether `host`, perhaps with a port, can only be this machine.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Access, is_loopback_name};
    use crate::serve::http::rate::Rate;
    use axum::http::{HeaderMap, HeaderName, Method};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn token_and_session_open_the_door() {
        let access = Access::new(Some("secret"), Rate::new(1));
        let cookie = access.cookie(&HeaderMap::new());
        let session = cookie.split(';').next().unwrap().to_owned();
        assert!(!cookie.contains("secret"));
        for (given, opens) in [
            (headers(&[]), false),
            (headers(&[("authorization", "Bearer secret")]), true),
            (headers(&[("authorization", "Bearer Secret")]), false),
            (headers(&[("authorization", "Basic secret")]), false),
            (headers(&[("cookie", &format!("a=b; {session}"))]), true),
            (headers(&[("cookie", "captionfleet_session=")]), false),
        ] {
            assert_eq!(access.check(&given).is_ok(), opens, "{given:?}");
        }
        assert!(Access::new(None, Rate::new(1)).check(&headers(&[])).is_ok());
    }

    #[test]
    fn other_sites_change_nothing() {
        let access = Access::new(Some("secret"), Rate::new(1));
        let from = |origin: &str| headers(&[("host", "h:1"), ("origin", origin)]);
        assert!(access.check_origin(&Method::POST, &from("http://h:1")).is_ok());
        assert!(access.check_origin(&Method::POST, &from("http://evil")).is_err());
        assert!(access.check_origin(&Method::POST, &from("null")).is_err());
        assert!(access.check_origin(&Method::GET, &from("http://evil")).is_ok());
        assert!(access.check_origin(&Method::POST, &headers(&[("host", "h:1")])).is_ok());
    }

    #[test]
    fn without_a_token_only_this_machine_has_a_name() {
        let access = Access::new(None, Rate::new(1));
        assert!(access.check_origin(&Method::GET, &headers(&[("host", "evil.example:8080")])).is_err());
        for name in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080"] {
            assert!(access.check_origin(&Method::GET, &headers(&[("host", name)])).is_ok(), "{name}");
        }
        assert!(!is_loopback_name("127.0.0.1.evil.example") && !is_loopback_name(""));
    }
}
