//! Scope rules: what makes a scope valid, which requests its routes match, how long and how often its tokens live.
//!
//! Lives here: every rule about routes, placeholders, resource ids, TTLs and uses. May not come in here: anything of
//! PostgreSQL, of token text, of storage. These are pure functions over bytes.
//!
//! Everything fails closed: what no rule allows is refused, and a presented path is compared as the bytes that it is.
//! Nothing is decoded, folded, trimmed or normalised, but for the ASCII letters of a method.

pub mod suspicion;

pub use suspicion::{SUSPICIONS_MAX, Suspicion, suspicions};

use crate::token::{self, EXPIRES_AT_MAX_MS};
use crate::values::{OutOfMemory, Span, TextArray};

/// The longest name of a scope, in bytes.
pub const NAME_MAX: usize = 255;
/// The most routes of a scope, and spending methods.
pub const ROUTES_MAX: usize = 1000;
/// The longest route, in bytes.
pub const ROUTE_MAX: usize = 4096;
/// The longest placeholder, in bytes.
pub const PLACEHOLDER_MAX: usize = 64;
/// The longest resource id, in bytes: together with the longest name it still fits an index entry.
pub const RESOURCE_ID_MAX: usize = 2048;

/// The longest text of a caller that a message quotes, in bytes.
const QUOTE_MAX: usize = 64;

/// A row of `temptoken.scopes` before it has been found valid. NULL is `None`.
pub struct ScopeRow<'a> {
    pub name: Option<&'a [u8]>,
    pub allowed_routes: Option<TextArray<'a>>,
    pub resource_id_in_path: Option<&'a [u8]>,
    pub max_ttl: Option<Span>,
    pub max_uses: Option<i32>,
    pub spending_methods: Option<TextArray<'a>>,
}

/// A caller's text as a message may quote it: cut to its first 64 bytes. `None` if it is not a scope-token, or may hold a
/// token. Every message that quotes a caller's text asks here.
pub fn quotable(text: &[u8]) -> Option<&str> {
    if !is_scope_token(text) || token::may_hold_secret(text) {
        return None;
    }
    str::from_utf8(&text[..text.len().min(QUOTE_MAX)]).ok()
}

/// Why a row is not a scope.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// The rule that it breaks first, in words for the person who wrote it. Routes and elements are numbered from 1.
    Rule(String),
    /// No rule is broken, but there is no memory for the scope.
    OutOfMemory,
}

impl From<OutOfMemory> for Problem {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Returns the rule that is broken, in words, unless `holds`.
macro_rules! ensure {
    ($holds:expr, $($broken:tt)*) => {
        if !$holds {
            return Err(Problem::Rule(format!($($broken)*)));
        }
    };
}

/// Why a token cannot be minted.
#[derive(Debug, PartialEq, Eq)]
pub enum MintProblem {
    /// The TTL is NULL, not positive, infinite, counted in months, over the scope's (microseconds), or past the range of
    /// time.
    Ttl { given: Option<Span>, most: i64 },
    /// The resource id cannot stand in the scope's paths, or is longer than [`RESOURCE_ID_MAX`].
    ResourceId,
    /// The number of uses asked for is not positive.
    MaxUses,
    /// The number of uses asked for is over the scope's.
    MaxUsesOverScope { most: i32 },
}

/// A valid scope.
#[derive(Debug)]
pub struct Scope {
    /// Parts, each after its length in four bytes: the name; the methods that spend, a space after each, or nothing where
    /// all do; every route, in which [`RESOURCE_ID`] stands for the placeholder. All is in one piece of memory: with many
    /// scopes, fetching memory is much of a validation's time.
    text: Vec<u8>,
    has_placeholder: bool,
    max_uses: Option<i32>,
    /// In microseconds.
    max_ttl: i64,
}

/// Bytes of a part's length.
const LENGTH_LEN: usize = size_of::<u32>();
/// Stands for the resource id in the path of a route. No path contains it.
const RESOURCE_ID: u8 = 0;

impl Scope {
    /// Reads a row, or says which rule it breaks first.
    pub fn new(row: &ScopeRow<'_>) -> Result<Self, Problem> {
        let name = row.name.unwrap_or_default();
        ensure!(!name.is_empty(), "the name is NULL or empty");
        ensure!(name.len() <= NAME_MAX, "the name is longer than {NAME_MAX} bytes");
        ensure!(
            is_scope_token(name),
            "the name is not made of visible ASCII characters other than \" and \\ (scope-token, RFC 6749)"
        );
        ensure!(row.resource_id_in_path.is_some(), "resource_id_in_path is NULL; without a placeholder it is ''");
        let placeholder = row.resource_id_in_path.unwrap_or_default();
        ensure!(
            placeholder.len() <= PLACEHOLDER_MAX
                && placeholder.iter().all(|byte| byte.is_ascii_graphic() && !b"/?#%".contains(byte)),
            "resource_id_in_path is not made of at most {PLACEHOLDER_MAX} visible ASCII characters other than / ? # %"
        );
        let routes = elements(row.allowed_routes.as_ref(), "allowed_routes")?;
        ensure!(!routes.is_empty(), "allowed_routes is NULL or empty");
        for (at, route) in routes.iter().flatten().enumerate() {
            check_route(route, placeholder, at + 1)?;
        }
        let max_ttl = row.max_ttl.and_then(Span::length).unwrap_or(0);
        ensure!(max_ttl > 0, "max_ttl is not a positive, finite interval without months or years");
        ensure!(row.max_uses.is_none_or(|uses| uses > 0), "max_uses is not positive");
        let methods = elements(row.spending_methods.as_ref(), "spending_methods")?;
        ensure!(
            row.spending_methods.is_none() || !methods.is_empty(),
            "spending_methods is empty; NULL means every method"
        );
        // A method that no route has could never spend: a limit that never bites is a mistake worth an error.
        let of_routes = || routes.iter().flatten().filter_map(|route| Some(split_route(route)?.0));
        for (at, method) in methods.iter().flatten().enumerate() {
            ensure!(
                of_routes().any(|known| known.eq_ignore_ascii_case(method)),
                "element {} of spending_methods is the method of no route",
                at + 1
            );
        }
        let text = write(name, methods, routes, placeholder)?;
        Ok(Self { text, has_placeholder: !placeholder.is_empty(), max_uses: row.max_uses, max_ttl })
    }

    /// The parts of the text.
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.text[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk()?;
            let (part, after) = after.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
            rest = after;
            Some(part)
        })
    }

    /// The name.
    pub fn name(&self) -> &[u8] {
        self.parts().next().unwrap_or_default()
    }

    /// Whether `method` and `path` are one of this scope's routes for `resource_id`.
    ///
    /// Mint has judged the resource id. It is judged again here: the scope may have been replaced since, or the row written
    /// by hand.
    pub fn allows(&self, resource_id: &[u8], method: &[u8], path: &[u8]) -> bool {
        if self.has_placeholder && !fits_in_path(resource_id) {
            return false;
        }
        self.parts()
            .skip(2)
            .filter_map(|route| path_under(route, method))
            .any(|template| path_matches(template, resource_id, path))
    }

    /// Whether a request with `method` spends a use of a limited token.
    pub fn spends(&self, method: &[u8]) -> bool {
        let methods = self.parts().nth(1).unwrap_or_default();
        methods.is_empty() || methods.split(|byte| *byte == b' ').any(|known| known.eq_ignore_ascii_case(method))
    }

    /// When a token minted at `now` (Unix microseconds) for `ttl` expires. Unix milliseconds, rounded down: an id carries no
    /// more.
    pub fn expires_at_ms(&self, now: i64, ttl: Option<Span>) -> Result<u64, MintProblem> {
        ttl.and_then(Span::length)
            .filter(|length| *length <= self.max_ttl)
            .and_then(|length| now.checked_add(length))
            .and_then(|micros| u64::try_from(micros / 1000).ok())
            .filter(|ms| *ms <= EXPIRES_AT_MAX_MS)
            .ok_or(MintProblem::Ttl { given: ttl, most: self.max_ttl })
    }

    /// How many uses a token gets; `None` is without limit. `max_uses` is at most the scope's limit.
    pub fn uses_left(&self, max_uses: Option<i32>) -> Result<Option<i32>, MintProblem> {
        match (self.max_uses, max_uses) {
            (_, Some(asked)) if asked < 1 => Err(MintProblem::MaxUses),
            (Some(most), Some(asked)) if asked > most => Err(MintProblem::MaxUsesOverScope { most }),
            (limit, asked) => Ok(asked.or(limit)),
        }
    }

    /// Whether a token of this scope can be bound to `resource_id`.
    pub fn accepts(&self, resource_id: Option<&[u8]>) -> Result<(), MintProblem> {
        let fits = |id: &[u8]| id.len() <= RESOURCE_ID_MAX && (!self.has_placeholder || fits_in_path(id));
        if resource_id.is_some_and(fits) { Ok(()) } else { Err(MintProblem::ResourceId) }
    }
}

/// The elements of a text[], none of them NULL. NULL in place of the array is empty.
fn elements<'a>(array: Option<&TextArray<'a>>, what: &str) -> Result<&'a [Option<&'a [u8]>], Problem> {
    let Some(array) = array else { return Ok(&[]) };
    ensure!(array.dimensions <= 1, "{what} is not a one-dimensional array");
    ensure!(array.length <= ROUTES_MAX, "{what} has more than {ROUTES_MAX} elements");
    ensure!(array.elements.iter().all(Option::is_some), "{what} contains NULL");
    Ok(array.elements)
}

/// Method and path: what stands before and after the first space.
fn split_route(route: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = route.iter().position(|byte| *byte == b' ')?;
    Some((&route[..space], &route[space + 1..]))
}

/// The path of a route with this method. Routes have one space.
fn path_under<'a>(route: &'a [u8], method: &[u8]) -> Option<&'a [u8]> {
    let (known, rest) = route.split_at_checked(method.len())?;
    if known.eq_ignore_ascii_case(method) { rest.strip_prefix(b" ") } else { None }
}

fn check_route(route: &[u8], placeholder: &[u8], number: usize) -> Result<(), Problem> {
    ensure!(route.len() <= ROUTE_MAX, "route {number} is longer than {ROUTE_MAX} bytes");
    let parts = split_route(route);
    ensure!(parts.is_some(), "route {number} is not of the form METHOD /path");
    let (method, path) = parts.unwrap_or_default();
    if let Some(what) = second_space(method, path) {
        ensure!(false, "route {number} {what}; its only space is the one between METHOD and /path");
    }
    ensure!(is_token(method), "the method of route {number} is not a token of RFC 9110");
    let own = || {
        let quoted = quotable(placeholder).map(|text| format!("{text}, ")).unwrap_or_default();
        quoted + "the placeholder of resource_id_in_path"
    };
    if let Some(text) = pieces(path, placeholder).find_map(bracketed) {
        let text = quotable(text).unwrap_or("text in brackets");
        ensure!(!placeholder.is_empty(), "route {number} contains {text}, but resource_id_in_path is ''");
        ensure!(false, "route {number} contains {text}, which is not {}", own());
    }
    ensure!(
        is_path(path, placeholder),
        "the path of route {number} is not made of segments of RFC 3986 path characters without percent-encoding, none of \
         them empty, \".\" or \"..\""
    );
    let has_placeholder = pieces(path, placeholder).nth(1).is_some();
    ensure!(placeholder.is_empty() || has_placeholder, "route {number} does not contain {}", own());
    Ok(())
}

/// What a route with more than one space has, if it has; `method` is what stands before the first.
fn second_space(method: &[u8], path: &[u8]) -> Option<&'static str> {
    if !path.contains(&b' ') {
        None
    } else if method.is_empty() {
        Some("starts with a space")
    } else if path.starts_with(b" ") {
        Some("has more than one space after its method")
    } else if path.trim_ascii_end().contains(&b' ') {
        Some("has a space in its path")
    } else {
        Some("ends with a space")
    }
}

/// What looks like a placeholder of some framework's in a piece of a path: `{id}`, `<id>` or `[id]`.
fn bracketed(piece: &[u8]) -> Option<&[u8]> {
    let start = piece.iter().position(|byte| b"{<[".contains(byte))?;
    let segment = piece[start..].split(|byte| *byte == b'/').next()?;
    let closing = match segment.first()? {
        b'{' => b'}',
        b'<' => b'>',
        _ => b']',
    };
    let end = segment.iter().position(|byte| *byte == closing)?;
    Some(&segment[..=end])
}

/// The text of a [`Scope`].
fn write(
    name: &[u8],
    methods: &[Option<&[u8]>],
    routes: &[Option<&[u8]>],
    placeholder: &[u8],
) -> Result<Vec<u8>, OutOfMemory> {
    let [methods, routes] = [methods, routes].map(|elements| elements.iter().flatten());
    // The lengths of the parts, and what they are made of. No placeholder is shorter than what stands for it.
    let elements = methods.clone().chain(routes.clone()).map(|element| LENGTH_LEN + element.len());
    let mut text = Vec::new();
    text.try_reserve_exact(2 * LENGTH_LEN + name.len() + elements.sum::<usize>()).map_err(|_| OutOfMemory)?;
    push_part(&mut text, [name]);
    push_part(&mut text, methods.flat_map(|method| [method, &b" "[..]]));
    for (method, path) in routes.filter_map(|route| split_route(route)) {
        let path = pieces(path, placeholder).flat_map(|piece| [&[RESOURCE_ID][..], piece]).skip(1);
        push_part(&mut text, [method, b" "].into_iter().chain(path));
    }
    Ok(text)
}

/// Appends what `pieces` are, after their length.
fn push_part<'a>(text: &mut Vec<u8>, pieces: impl IntoIterator<Item = &'a [u8]>) {
    let start = text.len() + LENGTH_LEN;
    text.extend([0; LENGTH_LEN]);
    pieces.into_iter().for_each(|piece| text.extend_from_slice(piece));
    let length = (text.len() - start) as u32;
    text[start - LENGTH_LEN..start].copy_from_slice(&length.to_ne_bytes());
}

/// `path` cut at every place of `placeholder`, from left to right: `/a/{id}/b` is `/a/` and `/b`. One piece when it has
/// none.
fn pieces<'a>(path: &'a [u8], placeholder: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(path);
    std::iter::from_fn(move || {
        let text = rest?;
        let at = text.windows(placeholder.len().max(1)).position(|window| window == placeholder);
        rest = at.map(|at| &text[at + placeholder.len()..]);
        Some(&text[..at.unwrap_or(text.len())])
    })
}

/// Whether a route's path is allowed: it starts with `/`, has no empty, `.` or `..` segment (one trailing slash is
/// allowed), and outside its placeholders consists of path characters.
fn is_path(path: &[u8], placeholder: &[u8]) -> bool {
    let Some(segments) = path.strip_prefix(b"/") else { return false };
    let segments = segments.strip_suffix(b"/").unwrap_or(segments);
    let segment_is_allowed = |segment: &[u8]| !matches!(segment, b"" | b"." | b"..");
    (path == b"/" || segments.split(|byte| *byte == b'/').all(segment_is_allowed))
        && pieces(path, placeholder).all(|piece| piece.iter().all(|byte| *byte == b'/' || is_pchar(*byte)))
}

/// Whether `resource_id` in a route leaves it that route. It is one or more path characters, and no segment that servers
/// resolve. It has no semicolon: servers cut what follows one (path parameters, RFC 3986, section 3.3), and `42;x` would be
/// served as `42`.
fn fits_in_path(resource_id: &[u8]) -> bool {
    !matches!(resource_id, b"" | b"." | b"..") && resource_id.iter().all(|byte| is_pchar(*byte) && *byte != b';')
}

/// Whether `path` is `route`'s, byte for byte, with `resource_id` in each place for it.
fn path_matches(route: &[u8], resource_id: &[u8], path: &[u8]) -> bool {
    let rest = route.iter().try_fold(path, |rest, byte| match *byte {
        RESOURCE_ID => rest.strip_prefix(resource_id),
        _ => rest.strip_prefix(std::slice::from_ref(byte)),
    });
    rest.is_some_and(<[u8]>::is_empty)
}

/// A token of RFC 9110, section 5.6.2: what methods and names of headers are.
pub fn is_token(text: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_tchar)
}

/// A scope-token of RFC 6749, section 3.3, of at most [`NAME_MAX`] bytes: such names can be listed with spaces between
/// them, and are the same bytes in every encoding.
fn is_scope_token(text: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\".contains(byte);
    (1..=NAME_MAX).contains(&text.len()) && text.iter().all(allowed)
}

/// A `pchar` of RFC 3986, section 3.3, without percent-encoding.
fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}
