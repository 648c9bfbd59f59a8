//! Property tests of the pure rules, without a server: token text and ids, scopes and matching.
//!
//! Matching is compared with a second matcher, written here in another way: it builds every path that a token opens and
//! looks whether the presented one is among them.

#[allow(dead_code)]
#[path = "../src/scope.rs"]
mod scope;
#[allow(dead_code)]
#[path = "../src/token.rs"]
mod token;

use proptest::prelude::*;
use scope::{MintProblem, Problem, Scope, ScopeRow, Span, TextArray};
use token::{EXPIRES_AT_MAX_MS, Prefix, Token, TokenId};

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

fn problem(routes: &[&str], placeholder: &str) -> Option<Problem> {
    Scope::new(&row(routes, placeholder.as_bytes())).err()
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
        assert!(id <= *TokenId::last_at(expires_at_ms).as_bytes());
        assert!(expires_at_ms == 0 || id > *TokenId::last_at(expires_at_ms - 1).as_bytes());
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

proptest! {
    #[test]
    fn any_bytes_are_refused_or_are_a_token_that_writes_them(text in prop::collection::vec(any::<u8>(), 0..130)) {
        prop_assert!(Token::parse(&text).is_none());
    }

    #[test]
    fn what_looks_like_a_token_parses_exactly_when_its_id_is_well_formed(
        prefix in "[a-zA-Z0-9_-]{0,18}", digits in "[0-9a-f]{96}"
    ) {
        let text = format!("{prefix}_{digits}");
        let prefix_ok = (1..=16).contains(&prefix.len())
            && prefix.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_');
        let id_ok = digits.as_bytes()[12] == b'8' && b"89ab".contains(&digits.as_bytes()[16]);
        prop_assert_eq!(Token::parse(text.as_bytes()).is_some(), prefix_ok && id_ok);
    }

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

/// The second matcher. Knows nothing of pieces: substitutes text, then looks for the whole.
fn naive_allows(routes: &[String], placeholder: &str, resource_id: &[u8], method: &[u8], path: &[u8]) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let sub_delim = |byte: u8| b"!$&'()*+,;=".contains(&byte);
    let pchar = |byte: u8| unreserved(byte) || sub_delim(byte) || byte == b':' || byte == b'@';
    let Ok(id) = std::str::from_utf8(resource_id) else {
        return placeholder.is_empty() && naive_plain(routes, method, path);
    };
    if !placeholder.is_empty() && (id.is_empty() || id == "." || id == ".." || !id.bytes().all(pchar)) {
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
        "[a-c.~!$&'()*+,;=:@%_-]{0,3}",
        "[ -~]{0,3}"
    ]
}

fn path() -> impl Strategy<Value = String> {
    (prop::collection::vec(segment(), 0..4), prop::bool::ANY)
        .prop_map(|(segments, trailing)| format!("/{}{}", segments.join("/"), if trailing { "/" } else { "" }))
}

fn route() -> impl Strategy<Value = String> {
    (prop_oneof![Just("GET".to_owned()), Just("post".to_owned()), "[A-Za-z*]{0,3}", "[ -~]{0,3}"], path())
        .prop_map(|(method, path)| format!("{method} {path}"))
}

fn resource_id() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-c.{}/%]{0,4}".prop_map(String::into_bytes),
        "[ -~]{0,4}".prop_map(String::into_bytes),
        Just("é".as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_two_matchers_agree_on_any_request(
        routes in prop::collection::vec(route(), 1..4),
        placeholder in prop_oneof![Just("{id}"), Just(""), Just(":x"), Just("a")],
        id in resource_id(),
        method in prop_oneof![Just("GET".to_owned()), Just("get".to_owned()), Just("POST".to_owned()), "[ -~]{0,4}"],
        other in prop_oneof![path().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..12)],
    ) {
        let Ok(scope) = Scope::new(&row(&routes, placeholder.as_bytes())) else { return Ok(()) };
        let mut paths = vec![other];
        for route in &routes {
            let template = route.split_once(' ').unwrap().1;
            let lossy = String::from_utf8_lossy(&id);
            paths.push(template.as_bytes().to_vec());
            paths.push(if placeholder.is_empty() { vec![] } else { template.replace(placeholder, &lossy).into_bytes() });
        }
        for presented in paths {
            let accepted = scope.allows(&id, method.as_bytes(), &presented);
            let expected = naive_allows(&routes, placeholder, &id, method.as_bytes(), &presented);
            prop_assert_eq!(accepted, expected, "{:?} {:?}", method, String::from_utf8_lossy(&presented));
        }
    }

    #[test]
    fn an_accepted_path_has_the_shape_of_its_route(
        routes in prop::collection::vec(route(), 1..4), id in resource_id()
    ) {
        let Ok(scope) = Scope::new(&row(&routes, b"{id}")) else { return Ok(()) };
        for route in &routes {
            let (method, template) = route.split_once(' ').unwrap();
            let presented = template.replace("{id}", &String::from_utf8_lossy(&id)).into_bytes();
            if scope.allows(&id, method.as_bytes(), &presented) {
                let segments = |path: &[u8]| path.split(|byte| *byte == b'/').count();
                prop_assert_eq!(segments(&presented), segments(template.as_bytes()));
                prop_assert!(!presented.split(|byte| *byte == b'/').any(|it| matches!(it, b"." | b"..")));
                prop_assert!(!presented.iter().any(|byte| b"%?# ".contains(byte) || !byte.is_ascii_graphic()));
            }
        }
    }

    #[test]
    fn any_row_is_a_scope_or_a_problem(
        name in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        routes in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 0..4),
        dimensions in 0..3,
        placeholder in prop::option::of(prop::collection::vec(any::<u8>(), 0..6)),
        (months, days, micros) in (any::<i32>(), any::<i32>(), any::<i64>()),
        max_uses in prop::option::of(any::<i32>()),
    ) {
        let elements = |list: &[Option<Vec<u8>>]| -> &[Option<&[u8]>] { list.iter().map(|it| it.clone().map(|it| &*it.leak())).collect::<Vec<_>>().leak() };
        let row = ScopeRow {
            name: name.as_deref(),
            allowed_routes: Some(TextArray { dimensions, length: routes.len(), elements: elements(&routes) }),
            resource_id_in_path: placeholder.as_deref(),
            max_ttl: Some(Span { months, days, micros }),
            max_uses,
            spending_methods: Some(TextArray { dimensions, length: routes.len(), elements: elements(&routes) }),
        };
        if let Err(problem) = Scope::new(&row) {
            prop_assert!(!problem.to_string().is_empty());
        }
    }

    #[test]
    fn what_mint_accepts_the_matcher_opens(id in resource_id()) {
        let scope = Scope::new(&row(&["GET /a/{id}"], b"{id}")).unwrap();
        let path = [b"/a/", &id[..]].concat();
        prop_assert_eq!(scope.accepts(Some(&id)).is_ok(), scope.allows(&id, b"GET", &path));
    }
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
    let path = |number| Some(Problem::PathMalformed { number });
    assert_eq!(problem(&[], ""), Some(Problem::RoutesMissing));
    assert_eq!(problem(&["GET"], ""), Some(Problem::RouteMalformed { number: 1 }));
    assert_eq!(problem(&["GET\t/files"], ""), Some(Problem::RouteMalformed { number: 1 }));
    assert_eq!(problem(&["GET /", " /files"], ""), Some(Problem::MethodMalformed { number: 2 }));
    assert_eq!(problem(&["GÉT /files"], ""), Some(Problem::MethodMalformed { number: 1 }));
    for bad in [
        "files",
        "",
        " /files",
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
        "/a b",
        "/a ",
        "/%41",
        "/é",
        "/a\\b",
        "/{id}",
        "/files\n",
        "http://host/files",
    ] {
        let route = format!("GET {bad}");
        assert_eq!(problem(&[&route], ""), path(1), "{bad:?}");
    }
    assert_eq!(problem(&["GET /a/{id}", "GET /a"], "{id}"), Some(Problem::PlaceholderMissing { number: 2 }));
    assert_eq!(problem(&["GET /a/{ID}"], "{id}"), path(1));
    for bad in ["/", "{a/b}", "{id }", "%", "?", "#", "é", "\u{7f}"] {
        assert_eq!(problem(&["GET /a"], bad), Some(Problem::PlaceholderMalformed), "{bad:?}");
    }
}

#[test]
fn spending_methods_are_methods_of_routes() {
    let scope = |methods: &[&str]| {
        let routes = ["GET /{id}", "POST /{id}"];
        Scope::new(&ScopeRow { spending_methods: Some(array(methods)), ..row(&routes, b"{id}") })
            .map(|scope| (scope.spends(b"get"), scope.spends(b"Post")))
    };
    assert_eq!(scope(&["POST"]), Ok((false, true)));
    assert_eq!(scope(&["get", "post"]), Ok((true, true)));
    assert_eq!(scope(&[]), Err(Problem::SpendingMethodsEmpty));
    assert_eq!(scope(&["POST", "PUT"]), Err(Problem::SpendingMethodUnknown { number: 2 }));
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
fn expiry_is_cut_to_the_millisecond_and_bounded() {
    let scope = Scope::new(&row(&["GET /{id}"], b"{id}")).unwrap();
    let now = 1_700_000_000_000_999;
    assert_eq!(scope.expires_at_ms(now, Some(HOUR)), Ok(1_700_003_600_000));
    let over = Span { micros: HOUR.micros + 1, ..HOUR };
    assert_eq!(scope.expires_at_ms(now, Some(over)), Err(MintProblem::Ttl));
    assert_eq!(scope.expires_at_ms(now, None), Err(MintProblem::Ttl));
    let long = ScopeRow { max_ttl: Some(Span { months: 0, days: 100_000_000, micros: 0 }), ..row(&["GET /"], b"") };
    let long = Scope::new(&long).unwrap();
    let ten_thousand_years = Span { months: 0, days: 3_652_500, micros: 0 };
    assert_eq!(long.expires_at_ms(now, Some(ten_thousand_years)), Err(MintProblem::Ttl));
    assert_eq!(long.expires_at_ms(i64::MAX, Some(HOUR)), Err(MintProblem::Ttl));
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
