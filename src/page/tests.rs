use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::*;
use crate::config::Config;

const HOSTILE: &str =
    "</script><script>alert(1)</script><!--\" ' ` = & \u{2028}\u{2029}\\ {{terms}} {{nothing}}\u{202e}\u{0}";

/// The requirements of a route.
fn requirements(accepts: &str, price: &str) -> Vec<(Requirement, Option<u8>)> {
    let config = format!(
        r#"{{"facilitator": {{"cluster": "f", "url": "http://f"}}, "routes": [{{"match": {{"path": "/"}}, "price": {price},
            "pay_to": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC", "accepts": {accepts}}}]}}"#
    );
    let config = Config::from_json(config.as_bytes()).unwrap();
    let offers = &config.routes[0].terms.as_ref().unwrap().offers;
    offers.iter().map(|offer| (offer.requirement.clone(), offer.dollar_decimals)).collect()
}

const USDC: &str = r#"{"scheme": "exact", "network": "base-sepolia", "asset": "USDC"}"#;

fn page_of(description: &str, terms: &str, use_template: Option<&str>) -> Page {
    let requirements = requirements(&format!("[{USDC}]"), r#""$0.001""#);
    let ways: Vec<Way<'_>> = requirements.iter().map(|(one, decimals)| Way::new(one, *decimals)).collect();
    let data = PageData {
        terms,
        ways: &ways,
        description,
        url: "https://api.example.com/weather?a=<b>&c=\"'",
        method: "GET",
        error: "Payment required",
    };
    match use_template {
        None => render(&data),
        Some(html) => render_custom(&Template::parse(html.to_owned()).unwrap(), None, &data),
    }
}

/// Returns the text between the only `open` of a page and the `close` behind it.
fn between<'a>(html: &'a str, open: &str, close: &str) -> &'a str {
    assert_eq!(html.matches(open).count(), 1, "{open}");
    html.split_once(open).unwrap().1.split_once(close).unwrap().0
}

fn source(text: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text.as_bytes())))
}

#[test]
fn the_policy_names_the_hashes_of_script_and_style() {
    let Page { html, csp } = page_of(HOSTILE, "{}", None);
    let script = source(between(&html, "<script>", "</script>"));
    let style = source(between(&html, "<style>", "</style>"));
    assert!(csp.contains(&format!("script-src {script};")), "the script's hash is {script}");
    assert!(csp.contains(&format!("style-src 'self' {style};")), "the style's hash is {style}");
    assert!(!csp.contains("unsafe"), "{csp}");
}

#[test]
fn the_page_is_small_and_loads_nothing() {
    assert!(PAGE.len() <= 14 * 1024, "{} bytes", PAGE.len());
    let page = PAGE.replace("https://github.com/coinbase/x402", "");
    for other in ["src=", "http://", "//cdn", "@import", "url(", "\r"] {
        assert!(!page.contains(other), "{other}");
    }
    assert!(!page.contains("https://"));
}

#[test]
fn the_built_in_page_is_a_template_like_any_other() {
    assert_eq!(Template::parse(PAGE.to_owned()).map(|_| ()), Ok(()));
}

#[test]
fn nothing_that_somebody_wrote_becomes_markup() {
    let terms = to_text(&serde_json::json!({ "resource": { "description": HOSTILE } }));
    let calm = page_of("Weather", "{}", None).html;
    let page = page_of(HOSTILE, &terms, None).html;
    for mark in ["<", "<script", "</script", "<!--"] {
        assert_eq!(page.matches(mark).count(), calm.matches(mark).count(), "{mark}");
    }
    assert!(!between(&page, "<h1 dir=\"auto\">", "</h1>").contains(['\u{0}', '\u{202e}']));
    assert!(page.contains("&#60;/script&#62;&#60;script&#62;alert(1)"));
    assert!(page.contains("https://api.example.com/weather?a&#61;&#60;b&#62;&#38;c&#61;&#34;&#39;"));
    let embedded = between(&page, "id=\"terms\">", "</script>");
    assert!(!embedded.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{embedded}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(embedded).unwrap()["resource"]["description"], HOSTILE);
}

#[test]
fn values_are_not_read_for_placeholders() {
    let template =
        "<p>{{description}}</p><p>{{price}}</p><script type=\"application/json\">{{terms}}</script>{{ not one }}";
    let page = page_of("{{price}}{{description}}", r#"{"a":"{{price}}"}"#, Some(template)).html;
    assert_eq!(
        page,
        "<p>&#123;&#123;price&#125;&#125;&#123;&#123;description&#125;&#125;</p><p>$0.001</p>\
         <script type=\"application/json\">{\"a\":\"{{price}}\"}</script>{{ not one }}"
    );
}

#[test]
fn an_urls_scheme_is_one_of_the_web() {
    let requirements = requirements(&format!("[{USDC}]"), r#""$1""#);
    let ways = [Way::new(&requirements[0].0, requirements[0].1)];
    let template = Template::parse("<a href=\"{{url}}\">{{url}}</a>".to_owned()).unwrap();
    let data =
        PageData { terms: "{}", ways: &ways, description: "", url: "javascript:alert(1)", method: "GET", error: "" };
    assert_eq!(render_custom(&template, None, &data).html, "<a href=\"\"></a>");
}

#[test]
fn placeholders_stand_where_they_can_be_escaped() {
    let parse = |html: &str| Template::parse(html.to_owned()).map(|_| ());
    let not_text = |name: &str| Err(TemplateError::NotText(name.to_owned()));
    for good in [
        "{{price}}",
        "a {{price}} b",
        "<p title=\"x > {{price}}\">{{description}}</p>",
        "<meta content='{{description}}'>",
        "<div data-price = \"{{price}}\" class=\"a\">",
        "<a href=\"{{url}}\">",
        "<script>if (a < b) c = {{}}</script><p>{{price}}",
        "<!-- a --><p>{{price}}",
        "<SCRIPT id=\"t\" type=\"application/json\"> {{terms}} </SCRIPT>",
        "<script type='application/json'>{{ways}}</script>",
    ] {
        assert_eq!(parse(good), Ok(()), "{good}");
    }
    for (bad, name) in [
        ("<script>let a = '{{price}}'</script>", "price"),
        ("<SCRIPT>let a = '{{price}}'</SCRIPT>", "price"),
        ("<style>p { color: {{description}} }</style>", "description"),
        ("<!-- {{error}} -->", "error"),
        ("<p title={{description}}>", "description"),
        ("<p {{description}}>", "description"),
        ("<{{description}}>", "description"),
        ("<p onclick=\"say('{{description}}')\">", "description"),
        ("<p title=\"a\" onclick=\"'{{description}}'\">", "description"),
        ("<p title=\"a\"/onclick=\"{{description}}\">", "description"),
        ("<p style=\"{{description}}\">", "description"),
        ("<a href=\"{{description}}\">", "description"),
        ("<a href=\"/x?{{url}}\">", "url"),
        ("<iframe srcdoc=\"{{description}}\">", "description"),
        ("<iframe>{{description}}</iframe>", "description"),
    ] {
        assert_eq!(parse(bad), not_text(name), "{bad}");
    }
    for bad in [
        "{{terms}}",
        "<p>{{terms}}</p>",
        "<p data-terms='{{terms}}'>",
        "<script>{{terms}}</script>",
        "<script>let terms = {{terms}}</script>",
        "<script type=\"application/json\">[{{terms}}]</script>",
        "<script type=\"application/json\">{{terms}}",
        "<style><script type=\"application/json\">{{terms}}</script>",
        "<!-- <script type=\"application/json\">{{terms}}</script> -->",
    ] {
        assert_eq!(parse(bad), Err(TemplateError::NotScript("terms".to_owned())), "{bad}");
    }
    let unknown = parse("<p>{{prize}}</p>").unwrap_err();
    assert!(unknown.to_string().starts_with("{{prize}} is not a placeholder; there are terms,"), "{unknown}");
    for name in ["terms", "ways", "description", "price", "asset", "network", "recipient", "url", "method", "error"] {
        assert!(unknown.to_string().contains(name));
    }
}

#[test]
fn amounts_read_as_people_write_them() {
    for (amount, decimals, at_least, text) in [
        ("1000", 6, 2, "0.001"),
        ("1", 6, 2, "0.000001"),
        ("100000", 6, 2, "0.10"),
        ("250000", 6, 2, "0.25"),
        ("1000000", 6, 2, "1"),
        ("1500000", 6, 0, "1.5"),
        ("123456789000000", 6, 2, "123456789"),
        ("7", 0, 2, "7"),
        ("0", 6, 2, "0"),
        ("1", 255, 0, &format!("0.{}1", "0".repeat(254))),
    ] {
        assert_eq!(in_units(Amount::parse(amount).unwrap(), decimals, at_least), text);
    }
}

#[test]
fn ways_are_named_for_people() {
    let accepts = format!(
        r#"[{USDC}, {{"scheme": "exact", "network": "eip155:999", "asset": {{"decimals": 18,
            "address": "0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85", "eip712": {{"name": "Odd", "version": "1"}}}}}},
           {{"scheme": "upto", "network": "celo", "asset": "USDC"}}]"#
    );
    let requirements = requirements(&accepts, r#"{"amount": "1500"}"#);
    let ways: Vec<Way<'_>> = requirements.iter().map(|(one, decimals)| Way::new(one, *decimals)).collect();
    let read: Vec<_> = ways.iter().map(|way| (way.price(), way.asset, way.network)).collect();
    assert_eq!(
        read,
        [
            ("$0.0015".to_owned(), "USDC", "Base Sepolia"),
            ("1500 atomic units of Odd".to_owned(), "Odd", "eip155:999"),
            ("up to $0.0015".to_owned(), "USDC", "Celo"),
        ]
    );
    assert_eq!(Way { decimals: Some(3), ..ways[1] }.price(), "1.5 Odd");
    let wire = to_text(&ways.iter().copied().map(Way::to_wire).collect::<Vec<_>>());
    let wire: serde_json::Value = serde_json::from_str(&wire).unwrap();
    assert_eq!(wire[0]["chain"]["rpcUrls"][0], "https://sepolia.base.org");
    assert!(wire[1].get("chain").is_none() && wire[1].get("explorer").is_none());
    let data = PageData { terms: "{}", ways: &ways[1..], description: "", url: "http://a/", method: "GET", error: "" };
    assert!(
        render(&data).html.contains("<p id=\"price\">1500 atomic units of Odd</p>"),
        "an entry that can be paid comes first"
    );
}
