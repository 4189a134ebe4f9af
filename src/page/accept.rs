//! The choice of clients that are answered with a page: browsers, and nobody who could be a program.

/// Returns whether a request is a browser's that opens a page, by its headers `Accept` and `Sec-Fetch-Dest` (empty where absent).
///
/// A browser names `text/html` and prefers it to JSON and to anything at all. Programs send `*/*`, or name several types
/// alike, and get JSON; so do requests of scripts, frames and images, for none of which a page is of use.
pub fn wants_page(accept: &str, fetch_dest: &str) -> bool {
    if !matches!(fetch_dest, "" | "document") {
        return false;
    }
    let mut html = 0;
    let mut others = 0;
    for range in accept.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        // Java's own client names `text/html` too, and a `*` that is no media range: no browser does.
        let (Some(quality), true) = (quality.map_or(Some(1000), in_thousandths), kind.contains('/')) else {
            return false;
        };
        match kind.as_str() {
            "text/html" => html = html.max(quality),
            "*/*" | "text/*" | "application/*" | "application/json" | "text/plain" | "text/markdown" => {
                others = others.max(quality);
            }
            _ => {}
        }
    }
    html > others
}

/// A quality of RFC 9110, section 12.4.2: `1`, `0.8`, `0.125`.
fn in_thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match whole {
        "1" if fraction.bytes().all(|byte| byte == b'0') => Some(1000),
        "0" => format!("{fraction:0<3}").parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_a_page() {
        for accept in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/html",
            "TEXT/HTML;charset=utf-8;q=0.9 , application/json;q=0.8",
            "text/html;q=0.001",
        ] {
            assert!(wants_page(accept, ""), "{accept}");
            assert!(wants_page(accept, "document"), "{accept}");
            for dest in ["empty", "iframe", "image", "Document", "nonsense"] {
                assert!(!wants_page(accept, dest), "{accept} {dest}");
            }
        }
    }

    #[test]
    fn programs_do_not() {
        for accept in [
            "",
            "*/*",
            "application/json",
            "application/json, text/plain, */*",
            "application/json, text/html",
            "text/html, application/json",
            "text/html;q=0.8, application/json;q=0.9",
            "text/markdown, text/html, */*",
            "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
            "text/html;q=0",
            "text/html;q=",
            "text/html;q=1.001",
            "text/html;q=0.0001",
            "text/html;q=-1",
            "text/html;q=0.8, application/json;q=x",
            "xtext/html",
            ",,;,",
            "text/event-stream",
        ] {
            assert!(!wants_page(accept, ""), "{accept}");
        }
    }
}
