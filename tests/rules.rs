//! Property tests of the pure rules, without a server: token text and ids, scopes and matching.
//!
//! Matching is compared with a second matcher, written here in another way: it builds every path that a token opens and
//! looks whether the presented one is among them.

#[allow(dead_code)]
#[path = "../src/scope/mod.rs"]
mod scope;
#[allow(dead_code)]
#[path = "../src/token.rs"]
mod token;
#[allow(dead_code)]
#[path = "../src/values.rs"]
mod values;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use scope::{MintProblem, Problem, Scope, ScopeRow, Suspicion, quotable, suspicions};
use token::{EXPIRES_AT_MAX_MS, Prefix, Token, last_id_at};
use values::{Span, TextArray};

const HOUR: Span = Span { months: 0, days: 0, micros: 3_600_000_000 };

fn array<'a>(elements: &'a [impl AsRef<[u8]>]) -> TextArray<'a> {
    TextArray {
        dimensions: 1,
        length: elements.len(),
        // A few bytes a case.
        elements: elements.iter().map(|element| Some(element.as_ref())).collect::<Vec<_>>().leak(),
    }
}

fn row<'a>(routes: &'a [impl AsRef<[u8]>], placeholder: &'a [u8]) -> ScopeRow<'a> {
    ScopeRow {
        name: Some(b"files"),
        allowed_routes: Some(array(routes)),
        resource_id_in_path: Some(placeholder),
        max_ttl: Some(HOUR),
        max_uses: None,
        spending_methods: None,
    }
}

/// Runs `test` on `cases` values. It names the branches that each value reached; how often each was reached is answered,
/// so that a test can say that its generator reaches what it is about.
fn reached<S: Strategy>(
    cases: u32,
    values: S,
    test: impl Fn(S::Value) -> Result<Vec<String>, TestCaseError>,
) -> BTreeMap<String, u32>
where
    S::Value: Debug,
{
    let counts = RefCell::new(BTreeMap::new());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&values, |value| {
        for branch in test(value)? {
            *counts.borrow_mut().entry(branch).or_default() += 1;
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    counts.into_inner()
}

/// Fails where a branch was reached less than `least` times.
fn expect_reached(counts: &BTreeMap<String, u32>, least: u32, branches: &[&str]) {
    for branch in branches {
        let count = counts.get(*branch).copied().unwrap_or(0);
        assert!(count >= least, "{branch} was reached {count} times: {counts:?}");
    }
}

/// The rule that `row` breaks.
fn rule_broken(row: &ScopeRow<'_>) -> Option<String> {
    match Scope::new(row) {
        Ok(_) => None,
        Err(Problem::Rule(rule)) => Some(rule),
        Err(Problem::OutOfMemory) => panic!("there is memory"),
    }
}

fn problem(routes: &[&str], placeholder: &str) -> Option<String> {
    rule_broken(&row(routes, placeholder.as_bytes()))
}

fn rule(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// The rule that `broken` tells of: which of `rules` is in it.
fn branch(broken: &str, rules: &[&str]) -> Vec<String> {
    let told: Vec<_> = rules.iter().filter(|rule| broken.contains(**rule)).map(|rule| (*rule).to_owned()).collect();
    assert_eq!(told.len(), 1, "{broken}");
    told
}

// ---------------------------------------------------------------------------------------------------------------------
// Tokens
// ---------------------------------------------------------------------------------------------------------------------

#[test]
fn a_token_survives_its_text() {
    for prefix in ["tt", "a", "acme_2", "0123456789abcdef"] {
        let token = Token::generate(1_700_000_000_000).unwrap();
        let text = token.text(Prefix::new(prefix.as_bytes()).unwrap());
        let text = text.as_bytes();
        assert_eq!(text.len(), prefix.len() + 97);
        let read = Token::parse(text).unwrap();
        assert_eq!(read.id(), token.id());
        assert!(read.digest().matches(token.digest().as_bytes()));
    }
}

#[test]
fn the_digest_covers_id_and_secret_and_nothing_else() {
    let token = Token::generate(1_700_000_000_000).unwrap();
    let text = token.text(Prefix::new(b"tt").unwrap()).as_bytes().to_vec();
    let other_prefix = [b"other", &text[2..]].concat();
    assert!(Token::parse(&other_prefix).unwrap().digest().matches(token.digest().as_bytes()));
    for at in 3..text.len() {
        let mut changed = text.clone();
        changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
        if let Some(other) = Token::parse(&changed) {
            assert!(!other.digest().matches(token.digest().as_bytes()), "digit {at} does not count");
        }
    }
}

#[test]
fn the_digest_is_sha256_of_id_then_secret() {
    use sha2::Digest as _;
    let text = b"tt_01a2075e19e08ab696668557c2100f20ac349f51f80ebaeb2eeb0307a9a011dc41d1113ff2fd20c1decc4293ab34b594";
    let mut bytes = [0; 48];
    hex::decode_to_slice(&text[3..], &mut bytes).unwrap();
    assert!(Token::parse(text).unwrap().digest().matches(&sha2::Sha256::digest(bytes)));
}

#[test]
fn an_id_is_a_version_8_uuid_that_leads_with_the_expiry() {
    for expires_at_ms in [0, 1, 1_700_000_000_000, EXPIRES_AT_MAX_MS] {
        let id = *Token::generate(expires_at_ms).unwrap().id().as_bytes();
        assert_eq!(id[6] >> 4, 8);
        assert_eq!(id[8] >> 6, 0b10);
        assert_eq!(id[..6], expires_at_ms.to_be_bytes()[2..]);
        assert!(id <= *last_id_at(expires_at_ms).as_bytes());
        assert!(expires_at_ms == 0 || id > *last_id_at(expires_at_ms - 1).as_bytes());
    }
}

#[test]
fn no_two_tokens_are_alike() {
    let mut ids = std::collections::HashSet::new();
    let mut digests = std::collections::HashSet::new();
    for _ in 0..10_000 {
        let token = Token::generate(1).unwrap();
        assert!(ids.insert(*token.id().as_bytes()));
        assert!(digests.insert(*token.digest().as_bytes()));
    }
}

#[test]
fn a_token_has_expired_at_the_very_instant() {
    assert!(!token::has_expired(1_000, 999));
    assert!(token::has_expired(1_000, 1_000));
    assert!(token::has_expired(1_000, 1_001));
}

#[test]
fn hostile_token_texts_do_not_parse() {
    let good = Token::generate(1_700_000_000_000).unwrap().text(Prefix::new(b"tt").unwrap()).as_bytes().to_vec();
    let digits = &good[3..];
    let upper = [b"tt_".as_slice(), &digits.to_ascii_uppercase()].concat();
    let mut version_7 = good.clone();
    version_7[3 + 12] = b'7';
    let mut variant = good.clone();
    variant[3 + 16] = b'c';
    let bad: Vec<Vec<u8>> = vec![
        vec![],
        b"tt".to_vec(),
        b"tt_".to_vec(),
        good[..good.len() - 1].to_vec(),
        [&good[..], b"0"].concat(),
        [b" ", &good[..]].concat(),
        [&good[..], b"\n"].concat(),
        [&good[..], b"\0"].concat(),
        digits.to_vec(),
        [b"_", digits].concat(),
        [b"tt-", digits].concat(),
        [b"TT_", digits].concat(),
        [b"t t_", digits].concat(),
        [b"0123456789abcdefg_", digits].concat(),
        ["ｔｔ_".as_bytes(), digits].concat(),
        upper,
        version_7,
        variant,
        vec![b'a'; 100 << 20],
        vec![0xff; 99],
    ];
    for text in bad {
        assert!(Token::parse(&text).is_none(), "{:?}", String::from_utf8_lossy(&text[..text.len().min(200)]));
    }
}

/// The second reader of tokens: by characters, from the end.
fn naive_is_token(text: &[u8]) -> bool {
    let Some((prefix, digits)) = std::str::from_utf8(text).ok().and_then(|text| text.rsplit_once('_')) else {
        return false;
    };
    let is_hex = digits.chars().all(|it| "0123456789abcdef".contains(it));
    digits.len() == 96
        && is_hex
        && digits.chars().nth(12) == Some('8')
        && digits.chars().nth(16).is_some_and(|it| "89ab".contains(it))
        && (1..=16).contains(&prefix.len())
        && prefix.chars().all(|it| "abcdefghijklmnopqrstuvwxyz0123456789_".contains(it))
}

/// A token, one with up to two bytes changed, put in or taken out, or any bytes.
fn token_text() -> impl Strategy<Value = Vec<u8>> {
    let digits =
        prop_oneof![4 => "[0-9a-f]{12}8[0-9a-f]{3}[89ab][0-9a-f]{79}", 1 => "[0-9a-f]{96}", 1 => "[0-9a-fA-F]{95,97}"];
    let prefix = prop_oneof![Just("tt".to_owned()), "[a-z0-9_]{1,16}", "[a-zA-Z0-9_-]{0,18}"];
    let edit = (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), b'0'..=b'9'], 0..3);
    let edited = (prefix, digits, prop::collection::vec(edit, 0..3)).prop_map(|(prefix, digits, edits)| {
        let mut text = format!("{prefix}_{digits}").into_bytes();
        for (at, byte, kind) in edits {
            let at = at.index(text.len());
            match kind {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => _ = text.remove(at),
            }
        }
        text
    });
    prop_oneof![8 => edited, 1 => prop::collection::vec(any::<u8>(), 0..130)]
}

#[test]
fn a_text_is_a_token_that_writes_it_or_is_refused() {
    let counts = reached(5_000, token_text(), |text| {
        let token = Token::parse(&text);
        prop_assert_eq!(token.is_some(), naive_is_token(&text));
        let Some(token) = token else { return Ok(vec!["refused".into()]) };
        let prefix = &text[..text.len() - 97];
        prop_assert!(token.text(Prefix::new(prefix).unwrap()).as_bytes() == text);
        Ok(vec!["token".into()])
    });
    expect_reached(&counts, 300, &["token", "refused"]);
}

/// What a message may repeat never holds a token, or a quarter of one, in whatever case and surroundings.
#[test]
fn no_text_with_a_token_in_it_is_quotable() {
    let edge = || prop_oneof!["[a-z:_./-]{0,80}", "[ -~]{0,80}"];
    let cuts = any::<(prop::sample::Index, prop::sample::Index)>();
    let part = (edge(), token_text(), cuts, any::<bool>(), edge());
    let counts = reached(5_000, part, |(before, token, (from, to), upper, after)| {
        let (from, to) = (from.index(token.len() + 1), to.index(token.len() + 1));
        let mut middle = token[from.min(to)..from.max(to)].to_vec();
        if upper {
            middle.make_ascii_uppercase();
        }
        let text = [before.as_bytes(), &middle, after.as_bytes()].concat();
        let is_hex = |window: &[u8]| window.iter().all(|byte| char::from(*byte).is_ascii_hexdigit());
        match quotable(&text) {
            Some(quoted) => {
                prop_assert!(text.starts_with(quoted.as_bytes()) && quoted.len() == text.len().min(64));
                prop_assert!(!text.windows(24).any(is_hex));
                Ok(vec!["quoted".into()])
            }
            None if text.windows(24).any(is_hex) => Ok(vec!["held back".into()]),
            None => Ok(vec!["no name".into()]),
        }
    });
    expect_reached(&counts, 50, &["quoted", "held back", "no name"]);
    let token = Token::generate(1_700_000_000_000).unwrap().text(Prefix::new(b"tt").unwrap()).as_bytes().to_vec();
    for start in [0, 3, 35, 40, 75] {
        assert_eq!(quotable(&token[start..]), None);
    }
    for name in ["files", "oauth2_consent", "a", "a/b:c.*'", "01a20789-641b-8f8b-a931-25ad799d0ecd"] {
        assert_eq!(quotable(name.as_bytes()), Some(name));
    }
    for name in ["", "a b", "a\"b", "a\\b", "é", "a\n", "01a20789641b8f8ba93125ad"] {
        assert_eq!(quotable(name.as_bytes()), None);
    }
}

proptest! {
    #[test]
    fn ids_sort_by_expiry(a in 0..EXPIRES_AT_MAX_MS, b in 0..EXPIRES_AT_MAX_MS) {
        let (first, second) = (Token::generate(a).unwrap(), Token::generate(b).unwrap());
        if a != b {
            prop_assert_eq!(first.id().as_bytes() < second.id().as_bytes(), a < b);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Scopes
// ---------------------------------------------------------------------------------------------------------------------

/// The second judge of resource ids: what is left of the first `;`, and RFC 3986's rules as they are written there.
fn naive_fits(id: &str) -> bool {
    let unreserved = |it: char| it.is_ascii_alphanumeric() || "-._~".contains(it);
    let sub_delim = |it: char| "!$&'()*+,;=".contains(it);
    let pchar = |it: char| unreserved(it) || sub_delim(it) || it == ':' || it == '@';
    !["", ".", ".."].contains(&id) && !id.contains(';') && id.chars().all(pchar)
}

/// The second matcher. Knows nothing of pieces: substitutes text, then looks for the whole.
fn naive_allows(routes: &[String], placeholder: &str, resource_id: &[u8], method: &[u8], path: &[u8]) -> bool {
    let Ok(id) = std::str::from_utf8(resource_id) else {
        return placeholder.is_empty() && naive_plain(routes, method, path);
    };
    if !placeholder.is_empty() && !naive_fits(id) {
        return false;
    }
    routes.iter().any(|route| {
        let (allowed_method, template) = route.split_once(' ').unwrap();
        let allowed = if placeholder.is_empty() { template.to_owned() } else { template.replace(placeholder, id) };
        allowed_method.to_ascii_uppercase().into_bytes() == method.to_ascii_uppercase() && allowed.as_bytes() == path
    })
}

fn naive_plain(routes: &[String], method: &[u8], path: &[u8]) -> bool {
    naive_allows(routes, "", b"", method, path)
}

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{id}".to_owned()),
        Just("x{id}y".to_owned()),
        Just("{id}{id}".to_owned()),
        Just(".{id}".to_owned()),
        Just("{id};v".to_owned()),
        "[a-c.~!$&'()*+,;=:@_-]{1,3}",
        "[a-c.%;]{0,3}",
        "[ -~]{0,3}"
    ]
}

/// As [`segment`], of those that most routes are made of.
fn plain_segment() -> impl Strategy<Value = String> {
    prop_oneof![Just("{id}".to_owned()), Just("x{id}y".to_owned()), "[a-c]{1,2}", "[a-c.;:*]{1,3}"]
}

fn path() -> impl Strategy<Value = String> {
    let segments = prop_oneof![
        3 => prop::collection::vec(plain_segment(), 0..4),
        1 => prop::collection::vec(segment(), 0..4),
    ];
    (segments, prop::bool::weighted(0.2))
        .prop_map(|(segments, trailing)| format!("/{}{}", segments.join("/"), if trailing { "/" } else { "" }))
}

fn route() -> impl Strategy<Value = String> {
    let method = prop_oneof![
        4 => Just("GET".to_owned()),
        4 => Just("post".to_owned()),
        1 => "[A-Za-z*|]{1,3}",
        1 => "[ -~]{0,3}",
    ];
    (method, path()).prop_map(|(method, path)| format!("{method} {path}"))
}

fn resource_id() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => "[a-c]{1,3}".prop_map(String::into_bytes),
        2 => "[a-c.;]{0,4}".prop_map(String::into_bytes),
        1 => "[.;]{0,3}[a-c/;.]{0,2}".prop_map(String::into_bytes),
        1 => "[a-c.{}/%]{0,4}".prop_map(String::into_bytes),
        1 => "[ -~]{0,4}".prop_map(String::into_bytes),
        1 => Just("é".as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ]
}

#[test]
fn the_two_matchers_agree_on_any_request() {
    let requests = (
        prop::collection::vec(route(), 1..3),
        prop_oneof![3 => Just("{id}"), 3 => Just(""), 2 => Just(":x"), 2 => Just("a")],
        resource_id(),
        prop_oneof![Just("GET".to_owned()), Just("get".to_owned()), Just("POST".to_owned()), "[ -~]{0,4}"],
        prop_oneof![path().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..12)],
    );
    let counts = reached(15_000, requests, |(mut routes, placeholder, id, method, other)| {
        let own = if placeholder.is_empty() { "x" } else { placeholder };
        routes.iter_mut().for_each(|route| *route = route.replace("{id}", own));
        let Ok(scope) = Scope::new(&row(&routes, placeholder.as_bytes())) else { return Ok(vec!["no scope".into()]) };
        let mut paths = vec![other];
        for route in &routes {
            let template = route.split_once(' ').unwrap().1;
            let lossy = String::from_utf8_lossy(&id);
            paths.push(template.as_bytes().to_vec());
            paths.push(if placeholder.is_empty() {
                vec![]
            } else {
                template.replace(placeholder, &lossy).into_bytes()
            });
        }
        let mut branches = Vec::new();
        for presented in paths {
            let accepted = scope.allows(&id, method.as_bytes(), &presented);
            let expected = naive_allows(&routes, placeholder, &id, method.as_bytes(), &presented);
            prop_assert_eq!(accepted, expected, "{:?} {:?}", method, String::from_utf8_lossy(&presented));
            branches.push(format!("{accepted} with placeholder {placeholder:?}"));
        }
        Ok(branches)
    });
    for placeholder in ["{id}", "", ":x", "a"] {
        let both = ["true", "false"].map(|accepted| format!("{accepted} with placeholder {placeholder:?}"));
        expect_reached(&counts, 50, &[&both[0], &both[1]]);
    }
}

#[test]
fn an_accepted_path_has_the_shape_of_its_route() {
    let counts = reached(15_000, (prop::collection::vec(route(), 1..3), resource_id()), |(routes, id)| {
        let Ok(scope) = Scope::new(&row(&routes, b"{id}")) else { return Ok(vec!["no scope".into()]) };
        let mut branches = Vec::new();
        for route in &routes {
            let (method, template) = route.split_once(' ').unwrap();
            let presented = template.replace("{id}", &String::from_utf8_lossy(&id));
            if !scope.allows(&id, method.as_bytes(), presented.as_bytes()) {
                branches.push("refused".into());
                continue;
            }
            branches.push("accepted".into());
            prop_assert_eq!(presented.split('/').count(), template.split('/').count());
            prop_assert!(!presented.split('/').any(|it| matches!(it, "." | "..")));
            prop_assert!(!presented.bytes().any(|byte| b"%?# ".contains(&byte) || !byte.is_ascii_graphic()));
            // A server that cuts path parameters serves what it would serve for this resource id in the route as it is cut.
            let cut = |path: &str| {
                let heads = path.split('/').map(|segment| segment.split(';').next().unwrap());
                heads.collect::<Vec<_>>().join("/")
            };
            prop_assert_eq!(cut(&presented), cut(template).replace("{id}", &String::from_utf8_lossy(&id)));
        }
        Ok(branches)
    });
    expect_reached(&counts, 100, &["accepted", "refused"]);
}

#[test]
fn the_two_judges_of_resource_ids_agree() {
    let with_placeholder = Scope::new(&row(&["GET /a/{id}"], b"{id}")).unwrap();
    let without = Scope::new(&row(&["GET /a"], b"")).unwrap();
    let counts = reached(12_000, resource_id(), |id| {
        let expected = std::str::from_utf8(&id).is_ok_and(naive_fits);
        let path = [b"/a/", &id[..]].concat();
        prop_assert_eq!(with_placeholder.accepts(Some(&id)).is_ok(), expected);
        // What mint accepts the matcher opens, and nothing else: it judges again.
        prop_assert_eq!(with_placeholder.allows(&id, b"GET", &path), expected);
        prop_assert!(without.accepts(Some(&id)).is_ok());
        let has_parameter = id.contains(&b';') && !id.contains(&b'/') && id.iter().all(u8::is_ascii_graphic);
        Ok(vec![format!("{expected}{}", if has_parameter { " with ;" } else { "" })])
    });
    expect_reached(&counts, 200, &["true", "false", "false with ;"]);
    for id in [";", "..;", ".;", ".;x", "..;/", "..;a=b", ";..", ";;", "a;", "a;..", "...;", "42;v=1"] {
        assert_eq!(with_placeholder.accepts(Some(id.as_bytes())), Err(MintProblem::ResourceId), "{id}");
        assert!(!with_placeholder.allows(id.as_bytes(), b"GET", format!("/a/{id}").as_bytes()), "{id}");
    }
    for id in ["...", "a.", ".a", "a,v=1"] {
        assert_eq!(with_placeholder.accepts(Some(id.as_bytes())), Ok(()), "{id}");
    }
}

/// The second judge of scopes: of rows with a list of routes, and nothing NULL. Says only yes or no.
fn naive_is_scope(name: &[u8], routes: &[Vec<u8>], placeholder: &str, micros: i64, max_uses: i32) -> bool {
    let name_fits =
        (1..=255).contains(&name.len()) && !name.iter().any(|it| matches!(it, 0..=32 | b'"' | b'\\' | 127..));
    let placeholder_fits =
        placeholder.len() <= 64 && placeholder.bytes().all(|it| matches!(it, b'!'..=b'~') && !b"/?#%".contains(&it));
    let route_fits = |route: &Vec<u8>| {
        let Ok(route) = std::str::from_utf8(route) else { return false };
        let Some((method, path)) = route.split_once(' ') else { return false };
        let tchar = |it: char| it.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(it);
        let with_x = if placeholder.is_empty() { path.to_owned() } else { path.replace(placeholder, "x") };
        let pchar = |it: char| it.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(it);
        let segments: Vec<&str> = path.split('/').collect();
        let last = segments.len() - 1;
        let segment_fits = |(at, segment): (usize, &&str)| at == 0 || at == last || !["", ".", ".."].contains(segment);
        !method.is_empty()
            && method.chars().all(tchar)
            && segments.len() > 1
            && segments[0].is_empty()
            && ![".", ".."].contains(&segments[last])
            && segments.iter().enumerate().all(segment_fits)
            && with_x.split('/').all(|segment| segment.chars().all(pchar))
            && (placeholder.is_empty() || path.contains(placeholder))
    };
    name_fits && placeholder_fits && !routes.is_empty() && routes.iter().all(route_fits) && micros > 0 && max_uses > 0
}

#[test]
fn the_two_judges_of_scopes_agree() {
    const RULES: &[&str] = &[
        "the name is NULL or empty",
        "the name is longer than 255 bytes",
        "the name is not made of",
        "allowed_routes is NULL or empty",
        "resource_id_in_path is not made of",
        "is not of the form METHOD /path",
        "its only space is",
        "is not a token of RFC 9110",
        "is not made of segments of RFC 3986",
        " contains ",
        " does not contain ",
        "max_ttl is not",
        "max_uses is not positive",
    ];
    let name = prop_oneof![
        12 => "[!#-\\[\\]-~]{1,20}".prop_map(String::into_bytes),
        1 => "[ -~]{0,3}".prop_map(String::into_bytes),
        1 => "[a-z]{250,260}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    let any_route = prop_oneof![
        12 => route().prop_map(String::into_bytes),
        1 => "[A-Z ]{0,3} [ -~]{0,4}".prop_map(String::into_bytes),
        1 => "GET /[<\\[{]id[>\\]}]".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..9),
    ];
    let rows = (
        name,
        prop::collection::vec(any_route, 0..3),
        prop_oneof![6 => Just("".to_owned()), 6 => Just("{id}".to_owned()), 1 => "[ -~]{0,3}", 1 => Just("x".repeat(65))],
        prop_oneof![8 => 1..i64::MAX, 1 => any::<i64>(), 1 => Just(0)],
        prop_oneof![8 => 1..9, 1 => any::<i32>()],
    );
    let counts = reached(15_000, rows, |(name, routes, placeholder, micros, max_uses)| {
        let broken = rule_broken(&ScopeRow {
            name: Some(&name),
            max_ttl: Some(Span { months: 0, days: 0, micros }),
            max_uses: Some(max_uses),
            ..row(&routes, placeholder.as_bytes())
        });
        prop_assert_eq!(broken.is_none(), naive_is_scope(&name, &routes, &placeholder, micros, max_uses));
        let Some(broken) = broken else { return Ok(vec!["Scope".into()]) };
        prop_assert!(broken.is_ascii() && broken.len() < 300);
        Ok(branch(&broken, RULES))
    });
    expect_reached(&counts, 500, &["Scope"]);
    expect_reached(&counts, 20, RULES);
}

/// NULL, arrays of arrays and elements that are NULL, anywhere.
#[test]
fn any_row_is_a_scope_or_a_problem() {
    const RULES: &[&str] = &[
        "the name is NULL or empty",
        "allowed_routes is NULL or empty",
        "is not a one-dimensional array",
        " contains NULL",
        "resource_id_in_path is NULL",
        "max_ttl is not",
        "spending_methods is empty",
        "of spending_methods is the method of no route",
    ];
    let element = || prop_oneof![9 => "(GET|POST) /a".prop_map(Some), 1 => Just(None)];
    let array =
        || (prop::collection::vec(element(), 0..4), prop_oneof![9 => Just(1), 1 => Just(2)], prop::bool::weighted(0.9));
    let methods = prop::option::weighted(
        0.5,
        (
            prop::collection::vec(prop_oneof![4 => Just(Some("get")), 1 => Just(Some("PUT")), 1 => Just(None)], 0..3),
            1..3,
        ),
    );
    let placeholder = prop::option::weighted(0.9, Just(""));
    let months = prop_oneof![9 => Just(0), 1 => any::<i32>()];
    let span = prop::option::weighted(0.9, (months, 0..3, any::<i64>()));
    let rows = (prop::option::weighted(0.9, "[ab]{1,2}"), array(), placeholder, span, methods);
    let counts = reached(8_000, rows, |(name, (routes, dimensions, given), placeholder, span, methods)| {
        let elements: Vec<_> = routes.iter().map(|it| it.as_deref().map(str::as_bytes)).collect();
        let spending: Vec<_> =
            methods.iter().flat_map(|(methods, _)| methods.iter().map(|it| it.map(str::as_bytes))).collect();
        let broken = rule_broken(&ScopeRow {
            name: name.as_deref().map(str::as_bytes),
            allowed_routes: given.then_some(TextArray { dimensions, length: routes.len(), elements: &elements }),
            resource_id_in_path: placeholder.map(str::as_bytes),
            max_ttl: span.map(|(months, days, micros)| Span { months, days, micros }),
            max_uses: None,
            spending_methods: methods.map(|(methods, dimensions)| TextArray {
                dimensions,
                length: methods.len(),
                elements: &spending,
            }),
        });
        Ok(broken.map_or_else(|| vec!["Scope".into()], |broken| branch(&broken, RULES)))
    });
    expect_reached(&counts, 300, &["Scope"]);
    expect_reached(&counts, 25, RULES);
}

/// Valid routes that cannot be meant, and their kin that can.
#[test]
fn suspicious_routes() {
    const NAME: (&str, &str, &str) = ("segment", "is not the placeholder", "To have a segment stand for");
    const WILDCARD: (&str, &str, &str) = ("segment", "is compared as it is written", "No character stands for others");
    const DOTS: (&str, &str, &str) =
        ("segment", "no server that resolves dots lets through", "Servers cut what follows");
    const METHOD: (&str, &str, &str) =
        ("method", "is compared as one method of that name", "Register a route for each");
    let of = |routes: &[&str], placeholder: &str| {
        assert_eq!(problem(routes, placeholder), None, "{routes:?}");
        suspicions(&row(routes, placeholder.as_bytes()))
    };
    let expect_one = |found: Vec<Suspicion>, number, (what, which, hint): (&str, &str, &str), text: &str| {
        let [Suspicion { detail, hint: said }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(*detail, format!("Route {number} has the {what} {text}, which {which}."));
        assert!(said.starts_with(hint) && said.ends_with('.'), "{said}");
    };
    for (route, placeholder, kind, text) in [
        ("GET /flows/:id", "", NAME, ":id"),
        ("GET /flows/:id/x", "", NAME, ":id"),
        ("GET /a/{x}/b/:y", "{x}", NAME, ":y"),
        ("GET /flows/:idx", ":id", NAME, ":idx"),
        ("GET /:id/:other", ":id", NAME, ":other"),
        ("GET /files/*", "", WILDCARD, "*"),
        ("GET /files/*.pdf", "", WILDCARD, "*.pdf"),
        ("GET /files/**", "", WILDCARD, "**"),
        ("GET /{id}/a*", "{id}", WILDCARD, "a*"),
        ("GET /a/..;/b", "", DOTS, "..;"),
        ("GET /a/.;x", "", DOTS, ".;x"),
        ("* /files", "", METHOD, "*"),
        ("GET|POST /files", "", METHOD, "GET|POST"),
    ] {
        expect_one(of(&[route], placeholder), 1, kind, text);
        let fine = format!("PUT /x{placeholder}");
        expect_one(of(&[&fine, route], placeholder), 2, kind, text);
    }
    for (route, placeholder) in [
        ("GET /flows/:id", ":id"),
        ("GET /flows/:id.pdf", ":id"),
        ("GET /flows/:id-:id", ":id"),
        ("GET /flows/{id}:cancel", "{id}"),
        ("GET /flows/a:b", ""),
        ("GET /files/*", "*"),
        ("GET /x*y", "*"),
        ("GET /a/...;x", ""),
        ("GET /a;b/.x;", ""),
        ("M-SEARCH /", ""),
    ] {
        assert_eq!(of(&[route], placeholder), vec![], "{route}");
    }
    assert_eq!(of(&["* /*"], "").len(), 2);
    assert_eq!(of(&["* /*"; 1000], "").len(), scope::SUSPICIONS_MAX);
    // A token is not repeated, here as elsewhere.
    let token = format!(
        "GET /:{}",
        String::from_utf8(Token::generate(1).unwrap().text(Prefix::new(b"tt").unwrap()).as_bytes().to_vec()).unwrap()
    );
    assert_eq!(of(&[&token], "")[0].detail, "Route 1 has a segment, which is not the placeholder.");
}

#[test]
fn valid_scopes() {
    for (routes, placeholder) in [
        (&["GET /files/{id}"][..], "{id}"),
        (&["GET /"], ""),
        (&["GET /files/", "PUT /files/"], ""),
        (&["GET /{id}"], "{id}"),
        (&["GET /a-{id}.pdf", "M-SEARCH /{id}/{id}"], "{id}"),
        (&["GET /files/:id"], ":id"),
        (&["GET /a.*b/(c)+$"], ""),
        (&["* /files/..."], ""),
    ] {
        assert_eq!(problem(routes, placeholder), None, "{routes:?} {placeholder:?}");
    }
}

#[test]
fn invalid_scopes() {
    let no_route = rule("route 1 is not of the form METHOD /path");
    let no_method = |number| rule(&format!("the method of route {number} is not a token of RFC 9110"));
    let no_path = rule(
        "the path of route 1 is not made of segments of RFC 3986 path characters without percent-encoding, none of them \
         empty, \".\" or \"..\"",
    );
    assert_eq!(problem(&[], ""), rule("allowed_routes is NULL or empty"));
    assert_eq!(problem(&["GET"], ""), no_route);
    assert_eq!(problem(&["GET\t/files"], ""), no_route);
    assert_eq!(problem(&["GET /", " /files"], ""), no_method(2));
    for (route, what) in [
        (" GET /a", "starts with a space"),
        ("GET  /a", "has more than one space after its method"),
        ("GET   ", "has more than one space after its method"),
        ("GET /a ", "ends with a space"),
        ("GET /a  ", "ends with a space"),
        ("GET /a b", "has a space in its path"),
        ("GET /a b ", "has a space in its path"),
    ] {
        let expected = format!("route 2 {what}; its only space is the one between METHOD and /path");
        assert_eq!(problem(&["PUT /", route], ""), Some(expected), "{route:?}");
    }
    let other = |routes: &[&str], placeholder, text: &str| {
        let rest = match placeholder {
            "" => "but resource_id_in_path is ''".to_owned(),
            own => format!("which is not {own}, the placeholder of resource_id_in_path"),
        };
        let expected = format!("route {} contains {text}, {rest}", routes.len());
        assert_eq!(problem(routes, placeholder), Some(expected), "{routes:?}");
    };
    other(&["GET /flows/{id}"], "", "{id}");
    other(&["GET /flows/<id>/x"], "", "<id>");
    other(&["GET /flows/[id]"], "", "[id]");
    other(&["GET /flows/x{id}y"], "", "{id}");
    other(&["GET /a/{x}", "GET /a/{x}/b/{y}"], "{x}", "{y}");
    other(&["GET /a/{ID}"], "{id}", "{ID}");
    assert_eq!(problem(&["GÉT /files"], ""), no_method(1));
    for bad in [
        "files",
        "",
        "//",
        "/files//x",
        "//files",
        "/files//",
        "/./x",
        "/x/..",
        "/../x",
        "/x/.",
        "/files?x",
        "/files#x",
        "/%41",
        "/é",
        "/a\\b",
        "/{id",
        "/id}",
        "/{a/b}",
        "/files\n",
        "http://host/files",
    ] {
        let route = format!("GET {bad}");
        assert_eq!(problem(&[&route], ""), no_path, "{bad:?}");
    }
    let missing = rule("route 2 does not contain {id}, the placeholder of resource_id_in_path");
    assert_eq!(problem(&["GET /a/{id}", "GET /a"], "{id}"), missing);
    // What may hold a token is not repeated.
    let (digits, text) = ("0123456789abcdef".repeat(2), "which is not the placeholder of resource_id_in_path");
    let expected = Some(format!("route 1 contains text in brackets, {text}"));
    assert_eq!(problem(&[&format!("GET /{{{digits}}}")], &"a".repeat(24)), expected);
    let expected = rule("route 1 does not contain the placeholder of resource_id_in_path");
    assert_eq!(problem(&["GET /a"], &digits), expected);
    let misplaced = "resource_id_in_path is not made of at most 64 visible ASCII characters other than / ? # %";
    for bad in ["/", "{a/b}", "{id }", "%", "?", "#", "é", "\u{7f}"] {
        assert_eq!(problem(&["GET /a"], bad), rule(misplaced), "{bad:?}");
    }
}

/// A scope-token of RFC 6749: names can be listed with spaces between them, and are the same in every encoding.
#[test]
fn names_are_scope_tokens() {
    let judged = |name: &[u8]| rule_broken(&ScopeRow { name: Some(name), ..row(&["GET /"], b"") });
    let malformed = "the name is not made of visible ASCII characters other than \" and \\ (scope-token, RFC 6749)";
    for byte in 0..=255 {
        let allowed = matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        let expected = if allowed { None } else { rule(malformed) };
        assert_eq!(judged(&[byte]), expected, "{byte:#x}");
        assert_eq!(judged(&[b'a', byte, b'z']), expected, "{byte:#x}");
    }
    assert_eq!(judged(b""), rule("the name is NULL or empty"));
    assert_eq!(judged(&[b'n'; 255]), None);
    assert_eq!(judged(&[b'n'; 256]), rule("the name is longer than 255 bytes"));
}

#[test]
fn spending_methods_are_methods_of_routes() {
    let scope = |methods: &[&str]| {
        let routes = ["GET /{id}", "POST /{id}"];
        Scope::new(&ScopeRow { spending_methods: Some(array(methods)), ..row(&routes, b"{id}") })
            .map(|scope| (scope.spends(b"get"), scope.spends(b"Post")))
    };
    let broken = |text: &str| Err(Problem::Rule(text.to_owned()));
    assert_eq!(scope(&["POST"]), Ok((false, true)));
    assert_eq!(scope(&["get", "post"]), Ok((true, true)));
    assert_eq!(scope(&[]), broken("spending_methods is empty; NULL means every method"));
    assert_eq!(scope(&["POST", "PUT"]), broken("element 2 of spending_methods is the method of no route"));
}

#[test]
fn a_ttl_is_positive_finite_and_without_months() {
    let span = |months, days, micros| Span { months, days, micros };
    assert_eq!(span(0, 1, 1).length(), Some(86_400_000_001));
    assert_eq!(span(0, 1, -1).length(), Some(86_399_999_999));
    assert_eq!(span(0, 0, i64::MAX).length(), Some(i64::MAX));
    for none in [
        span(0, 0, 0),
        span(0, 0, -1),
        span(0, -1, 0),
        span(1, 0, 0),
        span(-1, 60, 0),
        span(0, 1, i64::MAX),
        span(0, i32::MAX, i64::MAX),
        span(i32::MAX, i32::MAX, i64::MAX),
        span(i32::MIN, i32::MIN, i64::MIN),
    ] {
        assert_eq!(none.length(), None, "{none:?}");
    }
}

#[test]
fn a_span_is_written_with_its_unit() {
    let said = |months, days, micros| Span { months, days, micros }.to_string();
    assert_eq!(said(0, 0, 0), "0 seconds");
    assert_eq!(said(0, 0, 1_000_000), "1 second");
    assert_eq!(said(0, 0, -1_500_000), "-1.5 seconds");
    assert_eq!(said(0, 0, 1), "0.000001 seconds");
    assert_eq!(said(0, 1, -1), "86399.999999 seconds");
    assert_eq!(said(0, 0, 900_000_000_000_000_000), "900000000000 seconds");
    assert_eq!(said(1, 0, 0), "1 month, and a month has no fixed length");
    assert_eq!(said(-12, 31, 0), "-12 months and 2678400 seconds, and a month has no fixed length");
    assert_eq!(said(i32::MAX, i32::MAX, i64::MAX), "infinity");
    assert_eq!(said(i32::MIN, i32::MIN, i64::MIN), "-infinity");
    for span in
        [said(0, i32::MAX, i64::MAX), said(i32::MIN, i32::MAX, i64::MAX), said(i32::MIN, i32::MIN, i64::MIN + 1)]
    {
        assert!(span.len() <= 100, "{span}");
    }
}

#[test]
fn expiry_is_cut_to_the_millisecond_and_bounded() {
    let scope = Scope::new(&row(&["GET /{id}"], b"{id}")).unwrap();
    let now = 1_700_000_000_000_999;
    assert_eq!(scope.expires_at_ms(now, Some(HOUR)), Ok(1_700_003_600_000));
    let over = Span { micros: HOUR.micros + 1, ..HOUR };
    assert_eq!(scope.expires_at_ms(now, Some(over)), Err(MintProblem::Ttl { given: Some(over), most: HOUR.micros }));
    assert_eq!(scope.expires_at_ms(now, None), Err(MintProblem::Ttl { given: None, most: HOUR.micros }));
    let long = ScopeRow { max_ttl: Some(Span { months: 0, days: 100_000_000, micros: 0 }), ..row(&["GET /"], b"") };
    let long = Scope::new(&long).unwrap();
    let ttl = |given| MintProblem::Ttl { given: Some(given), most: 100_000_000 * 86_400_000_000 };
    let ten_thousand_years = Span { months: 0, days: 3_652_500, micros: 0 };
    assert_eq!(long.expires_at_ms(now, Some(ten_thousand_years)), Err(ttl(ten_thousand_years)));
    assert_eq!(long.expires_at_ms(i64::MAX, Some(HOUR)), Err(ttl(HOUR)));
}

#[test]
fn uses_can_be_lowered_and_not_raised() {
    let scope = |max_uses| Scope::new(&ScopeRow { max_uses, ..row(&["GET /{id}"], b"{id}") }).unwrap();
    assert_eq!(scope(None).uses_left(None), Ok(None));
    assert_eq!(scope(None).uses_left(Some(2)), Ok(Some(2)));
    assert_eq!(scope(Some(3)).uses_left(None), Ok(Some(3)));
    assert_eq!(scope(Some(3)).uses_left(Some(2)), Ok(Some(2)));
    assert_eq!(scope(Some(3)).uses_left(Some(4)), Err(MintProblem::MaxUsesOverScope { most: 3 }));
    assert_eq!(scope(None).uses_left(Some(0)), Err(MintProblem::MaxUses));
    assert_eq!(scope(Some(3)).uses_left(Some(-1)), Err(MintProblem::MaxUses));
}
