use super::*;

use Access::{Free, Priced};

fn matcher(hosts: &[&str], methods: &[&str], path: &str) -> Matcher {
    Matcher {
        hosts: hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect(),
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
        path: Pattern::parse(path).unwrap(),
    }
}

fn table(routes: &[(&str, Access)]) -> RouteTable {
    RouteTable::new(routes.iter().map(|(path, access)| (matcher(&[], &[], path), *access)).collect())
}

fn get<'a>(path: &'a str) -> Target<'a> {
    Target { method: "GET", authority: "api.example.com", path: path.as_bytes() }
}

#[test]
fn a_priced_route_matches_whatever_a_lenient_upstream_takes_for_it() {
    let table = table(&[("/weather/today", Priced)]);
    for path in [
        "/weather/today",
        "/weather/today?q=1",
        "/Weather/TODAY",
        "/weather/today/",
        "//weather//today",
        "/weather//today",
        "/weather/./today",
        "/x/../weather/today",
        "/weather/x/..//today",
        "/weather/x//../today",
        "/../weather/today",
        "/weather;v=1/today;jsessionid=2",
        "/x/..;/weather/today",
        "/%77eather/today",
        "/weather/%74%6F%64%61%79",
        "/weather/today%3fq=1",
        "/weather/today%23top",
        "//evil.example/weather/today",
        "///evil.example/weather/today",
        "/////evil.example/weather/today",
        "/.//evil.example/weather/today",
        "/x/..//evil.example/weather/today",
        "/weather/today;/x",
        "/weather/today;a=b/anything",
    ] {
        assert_eq!(table.decide(get(path)), Decision::Priced(0), "{path}");
    }
}

#[test]
fn a_path_that_servers_read_differently_is_refused_where_it_could_be_priced() {
    let table = table(&[("/weather/today", Priced)]);
    for path in [
        "/weather%2ftoday",
        "/weather%2Ftoday",
        "/weather%252ftoday",
        "/weather%5ctoday",
        "/weather\\today",
        "\\weather\\today",
        "/weather/%2e%2e/weather/today",
        "/x/%2e./weather/today",
        "/x%2f..%2fweather/today",
        "/x%2f%2e%2e%2fweather/today",
        "/x/%252e%252e/weather/today",
        "/%c0%ae%c0%ae/weather/today",
        "/weather/today%00",
        "/weather/today%0a",
        "/weather/today\u{7f}",
        "/weather/today%",
        "/weather/today%zz",
        "/weather/today%3bx",
        "/weather/today#top",
        "/weather%u002ftoday",
        "weather/today",
        "*",
        "",
        "http://api.example.com/weather/today",
        "/weather/today%20",
        "/%20weather/today",
        "/weather/today.",
        "/weather/today.;",
        "/weather/today%20;v=1",
        "/weather/today.%3fq",
        "/x/.%09./weather/today",
        "/x/.%00./weather/today",
        "/x/..%20/weather/today",
    ] {
        assert_eq!(table.decide(get(path)), Decision::Ambiguous, "{path}");
    }
    let not_text = Target { path: b"/weather/\xff", ..get("") };
    assert_eq!(table.decide(not_text), Decision::Ambiguous);
    let endless = format!("/{}", "a//".repeat(10_000));
    assert_eq!(table.decide(get(&endless)), Decision::Ambiguous);
}

#[test]
fn a_strange_path_that_cannot_be_priced_is_left_alone() {
    let table = table(&[("/v1/chat", Priced), ("/projects/{*rest}", Free)]);
    assert_eq!(table.decide(get("/projects/group%2Fname")), Decision::Free(1));
    assert_eq!(table.decide(get("/other/group%2Fname")), Decision::Unmatched);
    assert_eq!(table.decide(get("/projects/group%2F..%2F..%2Fv1%2Fchat")), Decision::Ambiguous);
    assert_eq!(table.decide(get("/v1%2Fchat")), Decision::Ambiguous);
}

#[test]
fn free_routes_match_to_the_letter() {
    let table = table(&[("/docs/{*rest}", Free), ("/{*rest}", Priced)]);
    assert_eq!(table.decide(get("/docs/a%20b?c")), Decision::Free(0));
    for path in ["/DOCS/a", "//docs/a", "/docs", "/docs/../secret", "/x/../docs/a", "/docs/..;/secret", "/%64ocs/a"] {
        assert_eq!(table.decide(get(path)), Decision::Priced(1), "{path}");
    }
}

#[test]
fn no_path_buys_one_route_at_the_price_of_another() {
    let table = table(&[("/cheap/{*rest}", Priced), ("/dear", Priced)]);
    assert_eq!(table.decide(get("/cheap/x")), Decision::Priced(0));
    for path in ["/cheap/../dear", "//cheap/dear", "/cheap/..;x/dear"] {
        assert_eq!(table.decide(get(path)), Decision::Ambiguous, "{path}");
    }
}

#[test]
fn the_first_route_that_matches_wins() {
    let table =
        table(&[("/a/{b}", Priced), ("/{a}/b", Priced), ("/a/b", Priced), ("/a/c", Free), ("/{*rest}", Priced)]);
    assert_eq!(table.decide(get("/a/b")), Decision::Priced(0));
    assert_eq!(table.decide(get("/x/b")), Decision::Priced(1));
    assert_eq!(table.decide(get("/a/c")), Decision::Priced(0));
    assert_eq!(table.decide(get("/x")), Decision::Priced(4));
    assert_eq!(table.decide(get("/")), Decision::Priced(4));
}

#[test]
fn parameters_take_one_segment_and_rests_any_number() {
    let table = table(&[("/users/{id}", Priced), ("/files/{*rest}", Priced)]);
    for (path, decision) in [
        ("/users/1", Decision::Priced(0)),
        ("/users", Decision::Unmatched),
        ("/users/1/2", Decision::Unmatched),
        ("/files", Decision::Priced(1)),
        ("/files/a/b/c", Decision::Priced(1)),
    ] {
        assert_eq!(table.decide(get(path)), decision, "{path}");
    }
}

#[test]
fn letters_beyond_ascii_match_in_any_case() {
    assert_eq!(table(&[("/stocks/India", Priced)]).decide(get("/%C5%BFtoc\u{212a}s/%C4%B1ndia")), Decision::Priced(0));
    let table = table(&[("/Straßen/Übersicht", Priced)]);
    for path in ["/straßen/übersicht", "/stra%C3%9Fen/%C3%9Cbersicht"] {
        assert_eq!(table.decide(get(path)), Decision::Priced(0), "{path}");
    }
}

#[test]
fn a_price_on_get_covers_head_and_options() {
    let table = RouteTable::new(vec![(matcher(&[], &["GET"], "/weather"), Priced)]);
    for (method, decision) in [
        ("GET", Decision::Priced(0)),
        ("get", Decision::Priced(0)),
        ("HEAD", Decision::Priced(0)),
        ("OPTIONS", Decision::Priced(0)),
        ("POST", Decision::Unmatched),
    ] {
        assert_eq!(table.decide(Target { method, ..get("/weather") }), decision, "{method}");
    }
    let post_only = Target { method: "POST", ..get("/weather%2f") };
    assert_eq!(table.decide(post_only), Decision::Unmatched);
}

#[test]
fn a_free_method_frees_no_other() {
    let table =
        RouteTable::new(vec![(matcher(&[], &["GET"], "/weather"), Free), (matcher(&[], &[], "/weather"), Priced)]);
    for (method, decision) in [
        ("GET", Decision::Free(0)),
        ("HEAD", Decision::Free(0)),
        ("OPTIONS", Decision::Priced(1)),
        ("POST", Decision::Priced(1)),
    ] {
        assert_eq!(table.decide(Target { method, ..get("/weather") }), decision, "{method}");
    }
}

#[test]
fn hosts_match_in_any_spelling() {
    let routes = [&["api.example.com"][..], &["*.models.example.com"], &[]];
    let table = RouteTable::new(routes.iter().map(|hosts| (matcher(hosts, &[], "/a"), Priced)).collect());
    for (authority, index) in [
        ("api.example.com", 0),
        ("API.example.com:8443", 0),
        ("api.example.com.", 0),
        ("x.models.example.com", 1),
        ("x.y.models.example.com:80", 1),
        ("models.example.com", 2),
        ("[::1]:8080", 2),
        ("", 2),
    ] {
        assert_eq!(table.decide(Target { authority, ..get("/a") }), Decision::Priced(index), "{authority}");
    }
    for wrong in ["", "*", "*.", "https://a", "a/b", "a:80", "a b", "*.*.a", ".a"] {
        assert_eq!(HostPattern::parse(wrong), Err(HostPatternError), "{wrong}");
    }
}

#[test]
fn an_authority_that_is_none_gets_past_no_price() {
    let table = RouteTable::new(vec![(matcher(&["api.example.com", "[::1]"], &[], "/a"), Priced)]);
    assert_eq!(table.decide(Target { authority: "[::1]:80", ..get("/a") }), Decision::Priced(0));
    for authority in [
        "user@api.example.com",
        "api.example.com:80@",
        "api.example.com:x",
        "api.example.com:80:80",
        "api.example.com:+80",
        "api.example.com,evil",
        "api.example.com;x",
        "api.example.com%2e",
        "api.example.com/x",
        "api.example.com evil",
        "[::1]x",
    ] {
        assert_eq!(table.decide(Target { authority, ..get("/a") }), Decision::Ambiguous, "{authority}");
        assert_eq!(table.decide(Target { authority, ..get("/b") }), Decision::Unmatched, "{authority}");
    }
    assert!(table.prices_by_host());
}

#[test]
fn a_lone_percent_sign_takes_nothing_back() {
    let table = table(&[("/free/{*rest}", Free), ("/weather", Priced)]);
    for path in ["/free/100%25", "/free/100%", "/free/100%25/x", "/free/100%2525", "/free/%25"] {
        assert_eq!(table.decide(get(path)), Decision::Free(0), "{path}");
    }
    for path in [
        "/free/%252e%252e/weather",
        "/free/%25u002e%25u002e/weather",
        "/free/%u002e%u002e/weather",
        "/free/%u002e./weather",
        "/free/%25%32%65./weather",
        "/free/%252525252e./weather",
        "/free/.%2/weather",
        "/free/%2%65./weather",
        "/free/% 2e/weather",
        "/free/%25off/weather",
        "/free/%ie%ie/weather",
        "/free/x%25%2fy%25/../../weather",
        "/free/100%25%2f..%2f..%2fweather",
    ] {
        assert_eq!(table.decide(get(path)), Decision::Ambiguous, "{path}");
    }
}

#[test]
fn what_is_left_of_a_long_segment_is_compared_like_a_short_one() {
    let table = table(&[("/kiss", Priced)]);
    for rest in ["%3fq", ";q", "%23q"] {
        let path = format!("/\u{212a}i\u{17f}\u{17f}{rest}{}", "\u{17f}".repeat(100));
        assert_eq!(table.decide(get(&path)), Decision::Priced(0), "{path}");
    }
}

#[test]
fn a_host_longer_than_any_is_none() {
    let table = RouteTable::new(vec![(matcher(&["*.example.com"], &[], "/a"), Priced)]);
    let long = |length: usize| format!("{}.example.com", "a.".repeat(length).trim_end_matches('.'));
    assert_eq!(table.decide(Target { authority: &long(100), ..get("/a") }), Decision::Priced(0));
    assert_eq!(table.decide(Target { authority: &long(200), ..get("/a") }), Decision::Ambiguous);
}

#[test]
fn what_some_server_would_trim_is_found_wherever_it_stands() {
    let table = table(&[("/{a}", Priced)]);
    for (path, decision) in [
        ("/a.;b", Decision::Ambiguous),
        ("/a;b.;c", Decision::Ambiguous),
        ("/a;b.", Decision::Ambiguous),
        ("/a;b%20;c", Decision::Ambiguous),
        ("/a;.", Decision::Ambiguous),
        ("/a%3f.", Decision::Ambiguous),
        ("/%20;a", Decision::Ambiguous),
        ("/%e2%80%83a", Decision::Ambiguous),
        ("/a%c2%a0", Decision::Ambiguous),
        ("/a.b;c", Decision::Priced(0)),
        ("/a b;c d", Decision::Priced(0)),
        ("/.a", Decision::Priced(0)),
        ("/...a", Decision::Priced(0)),
        ("/...", Decision::Ambiguous),
    ] {
        assert_eq!(table.decide(get(path)), decision, "{path}");
    }
}

#[test]
fn a_host_in_the_path_is_no_way_around_prices_by_host() {
    let routes = [(matcher(&["api.example.com"], &[], "/hosted"), Priced), (matcher(&[], &[], "/{*rest}"), Free)];
    let table = RouteTable::new(routes.to_vec());
    let at = |authority, path: &'static str| table.decide(Target { method: "GET", authority, path: path.as_bytes() });
    for path in [
        "//api.example.com/hosted",
        "///API.example.com:80/hosted/",
        "//u:p@api.example.com/hosted",
        "/\\api.example.com/hosted",
        "/%2Fapi.example.com/hosted",
    ] {
        assert_eq!(at("other.com", path), Decision::Ambiguous, "{path}");
    }
    for path in ["//other.com/hosted", "/hosted", "/x//api.example.com/hosted", "//", "//api.example.com/free"] {
        assert!(!matches!(at("other.com", path), Decision::Priced(_) | Decision::Ambiguous), "{path}");
    }
    for authority in ["a@b", "api.example.com@[::1]", "[::1]x"] {
        assert_eq!(at(authority, "/hosted"), Decision::Ambiguous, "{authority}");
    }
}

#[test]
fn what_is_cut_off_a_segment_may_be_long() {
    let table = table(&[("/kiss", Priced)]);
    let long = "x".repeat(500);
    for start in ["/KISS;", "/KISS%3f", "/Ki%73S%23", "/\u{212A}i\u{17F}s%3fq3\u{17F}s"] {
        assert_eq!(table.decide(get(&format!("{start}{long}"))), Decision::Priced(0), "{start}");
    }
}
