//! Scope rules: what makes a scope valid, which requests its routes match, how long and how often its tokens live.
//!
//! Lives here: every rule about routes, placeholders, resource ids, TTLs and uses. May not come in here: anything of
//! PostgreSQL, of token text, of storage. These are pure functions over bytes.
//!
//! Everything fails closed: what no rule allows is refused, and a presented path is compared as the bytes that it is.
//! Nothing is decoded, folded, trimmed or normalised, but for the ASCII letters of a method.

mod problem;
pub mod suspicion;

pub use problem::Problem;
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

/// Why a token cannot be minted.
#[derive(Debug, PartialEq, Eq)]
pub enum MintProblem {
    /// The TTL is NULL, not positive, infinite, counted in months, over the scope's, or past the range of time.
    Ttl { given: Option<Span> },
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
    /// The name, then each route: the lengths of its method and path, 16 bits each, its method, its path. In the path,
    /// [`RESOURCE_ID`] stands for the placeholder. All is in one piece of memory: with many scopes, fetching memory is much
    /// of a validation's time.
    text: Box<[u8]>,
    name_length: u16,
    has_placeholder: bool,
    max_uses: Option<i32>,
    max_ttl: i64,
    /// Each followed by a space, which no method contains.
    spending_methods: Option<Box<[u8]>>,
}

/// Stands for the resource id in the path of a route. No path contains it.
const RESOURCE_ID: u8 = 0;

/// A route before it is written into a [`Scope`].
#[derive(Clone, Copy)]
struct Route<'a> {
    method: &'a [u8],
    path: &'a [u8],
}

impl Scope {
    /// Reads a row, or says which rule it breaks first.
    pub fn new(row: &ScopeRow<'_>) -> Result<Self, Problem> {
        let name = row.name.filter(|name| !name.is_empty()).ok_or(Problem::NameMissing)?;
        if name.len() > NAME_MAX {
            return Err(Problem::NameTooLong);
        }
        if !is_scope_token(name) {
            return Err(Problem::NameMalformed);
        }
        let placeholder = row.resource_id_in_path.ok_or(Problem::PlaceholderNull)?;
        if placeholder.len() > PLACEHOLDER_MAX
            || !placeholder.iter().all(|byte| byte.is_ascii_graphic() && !b"/?#%".contains(byte))
        {
            return Err(Problem::PlaceholderMalformed);
        }
        let routes = check_routes(row.allowed_routes.as_ref(), placeholder)?;
        let max_ttl = row.max_ttl.and_then(Span::length).ok_or(Problem::TtlMalformed)?;
        if row.max_uses.is_some_and(|uses| uses < 1) {
            return Err(Problem::MaxUsesNotPositive);
        }
        let spending_methods = read_spending_methods(row.spending_methods.as_ref(), routes)?;
        Ok(Self {
            text: write(name, routes, placeholder)?,
            name_length: name.len() as u16,
            has_placeholder: !placeholder.is_empty(),
            max_uses: row.max_uses,
            max_ttl,
            spending_methods,
        })
    }

    /// The name.
    pub fn name(&self) -> &[u8] {
        &self.text[..usize::from(self.name_length)]
    }

    /// Method and path of each route.
    fn routes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.text[usize::from(self.name_length)..];
        std::iter::from_fn(move || {
            let ([a, b, c, d], texts) = rest.split_first_chunk()?;
            let [method_length, path_length] = [[*a, *b], [*c, *d]].map(|bytes| usize::from(u16::from_ne_bytes(bytes)));
            let (method, texts) = texts.split_at_checked(method_length)?;
            let (path, after) = texts.split_at_checked(path_length)?;
            rest = after;
            Some((method, path))
        })
    }

    /// Whether `method` and `path` are one of this scope's routes for `resource_id`.
    ///
    /// Mint has judged the resource id. It is judged again here: the scope may have been replaced since, or the row written
    /// by hand.
    pub fn allows(&self, resource_id: &[u8], method: &[u8], path: &[u8]) -> bool {
        if self.has_placeholder && !fits_in_path(resource_id) {
            return false;
        }
        self.routes().any(|(known, route)| known.eq_ignore_ascii_case(method) && path_matches(route, resource_id, path))
    }

    /// Whether a request with `method` spends a use of a limited token.
    pub fn spends(&self, method: &[u8]) -> bool {
        match &self.spending_methods {
            None => true,
            Some(methods) => methods.split(|byte| *byte == b' ').any(|spending| spending.eq_ignore_ascii_case(method)),
        }
    }

    /// The longest TTL, in microseconds.
    pub fn max_ttl(&self) -> i64 {
        self.max_ttl
    }

    /// When a token minted at `now` (Unix microseconds) for `ttl` expires. Unix milliseconds, rounded down: an id carries no
    /// more.
    pub fn expires_at_ms(&self, now: i64, ttl: Option<Span>) -> Result<u64, MintProblem> {
        let length = ttl.and_then(Span::length).filter(|length| *length <= self.max_ttl);
        length
            .and_then(|length| now.checked_add(length))
            .and_then(|micros| u64::try_from(micros / 1000).ok())
            .filter(|ms| *ms <= EXPIRES_AT_MAX_MS)
            .ok_or(MintProblem::Ttl { given: ttl })
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

fn read_elements<'a>(array: &TextArray<'a>, what: &'static str) -> Result<&'a [Option<&'a [u8]>], Problem> {
    if array.dimensions > 1 {
        return Err(Problem::NotOneDimensional(what));
    }
    if array.length > ROUTES_MAX {
        return Err(Problem::TooLong(what));
    }
    if array.elements.iter().any(Option::is_none) {
        return Err(Problem::NullElement(what));
    }
    Ok(array.elements)
}

/// Checks every route: the elements that they are read from.
fn check_routes<'a>(array: Option<&TextArray<'a>>, placeholder: &[u8]) -> Result<&'a [Option<&'a [u8]>], Problem> {
    let elements = read_elements(array.ok_or(Problem::RoutesMissing)?, "allowed_routes")?;
    if elements.is_empty() {
        return Err(Problem::RoutesMissing);
    }
    for (index, route) in elements.iter().flatten().enumerate() {
        check_route(route, placeholder, index + 1)?;
    }
    Ok(elements)
}

/// The routes in elements that were checked.
fn routes<'a>(elements: &'a [Option<&'a [u8]>]) -> impl Iterator<Item = Route<'a>> {
    elements.iter().flatten().filter_map(|route| Route::split(route))
}

impl<'a> Route<'a> {
    /// What stands before and after the first space.
    fn split(text: &'a [u8]) -> Option<Self> {
        let space = text.iter().position(|byte| *byte == b' ')?;
        Some(Self { method: &text[..space], path: &text[space + 1..] })
    }
}

fn check_route(text: &[u8], placeholder: &[u8], number: usize) -> Result<(), Problem> {
    if text.len() > ROUTE_MAX {
        return Err(Problem::RouteTooLong(number));
    }
    let Route { method, path } = Route::split(text).ok_or(Problem::RouteMalformed(number))?;
    if let Some(what) = second_space(method, path) {
        return Err(Problem::Space(number, what));
    }
    if !is_token(method) {
        return Err(Problem::MethodMalformed(number));
    }
    let own = || if placeholder.is_empty() { Some(String::new()) } else { quotable(placeholder).map(String::from) };
    if let Some(text) = pieces(path, placeholder).find_map(bracketed) {
        let text = quotable(text).map(String::from);
        return Err(Problem::OtherPlaceholder { number, text, placeholder: own() });
    }
    if !is_path(path, placeholder) {
        return Err(Problem::PathMalformed(number));
    }
    if !placeholder.is_empty() && pieces(path, placeholder).nth(1).is_none() {
        return Err(Problem::PlaceholderMissing(number, own()));
    }
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

fn read_spending_methods(
    array: Option<&TextArray<'_>>,
    elements: &[Option<&[u8]>],
) -> Result<Option<Box<[u8]>>, Problem> {
    let Some(array) = array else { return Ok(None) };
    let methods = read_elements(array, "spending_methods")?;
    if methods.is_empty() {
        return Err(Problem::SpendingMethodsEmpty);
    }
    // A method that no route has could never spend: a limit that never bites is a mistake worth an error.
    let known = |method: &&[u8]| routes(elements).any(|route| route.method.eq_ignore_ascii_case(method));
    if let Some(index) = methods.iter().flatten().position(|method| !known(method)) {
        return Err(Problem::SpendingMethodUnknown(index + 1));
    }
    let write = |push: &mut dyn FnMut(&[u8])| {
        for method in methods.iter().flatten() {
            push(method);
            push(b" ");
        }
    };
    Ok(Some(join(write)?))
}

/// The text of a [`Scope`]. No length exceeds [`NAME_MAX`] or [`ROUTE_MAX`], which 16 bits can say.
fn write(name: &[u8], elements: &[Option<&[u8]>], placeholder: &[u8]) -> Result<Box<[u8]>, OutOfMemory> {
    join(|push| {
        push(name);
        for Route { method, path } in routes(elements) {
            let pieces = || pieces(path, placeholder);
            let path_length = pieces().map(|piece| piece.len() + 1).sum::<usize>() - 1;
            for length in [method.len(), path_length] {
                push(&(length as u16).to_ne_bytes());
            }
            push(method);
            for (at, piece) in pieces().enumerate() {
                push(if at == 0 { &[] } else { &[RESOURCE_ID] });
                push(piece);
            }
        }
    })
}

/// What `write` pushes, in one piece of memory. `write` is called twice: first for the size.
fn join(write: impl Fn(&mut dyn FnMut(&[u8]))) -> Result<Box<[u8]>, OutOfMemory> {
    let mut length = 0;
    write(&mut |part| length += part.len());
    let mut text = Vec::new();
    text.try_reserve_exact(length).map_err(|_| OutOfMemory)?;
    write(&mut |part| text.extend_from_slice(part));
    Ok(text.into_boxed_slice())
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
/// resolve, also after they have cut its path parameters (RFC 3986, section 3.3).
fn fits_in_path(resource_id: &[u8]) -> bool {
    !matches!(before_semicolon(resource_id), b"" | b"." | b"..") && resource_id.iter().all(|byte| is_pchar(*byte))
}

/// A segment without its path parameters.
fn before_semicolon(segment: &[u8]) -> &[u8] {
    segment.split(|byte| *byte == b';').next().unwrap_or_default()
}

/// Whether `path` is `route`'s, byte for byte, with `resource_id` in each place for it.
fn path_matches(route: &[u8], resource_id: &[u8], path: &[u8]) -> bool {
    let mut rest = path;
    for byte in route {
        let after = match (*byte, rest) {
            (RESOURCE_ID, _) => rest.strip_prefix(resource_id),
            (byte, [first, after @ ..]) if *first == byte => Some(after),
            _ => None,
        };
        let Some(after) = after else { return false };
        rest = after;
    }
    rest.is_empty()
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
