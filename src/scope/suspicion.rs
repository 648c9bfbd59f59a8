//! Routes that are valid, but probably not what their author meant.

use super::{ScopeRow, pieces, quotable, split_route};

/// The most suspicions that are reported of one scope.
pub const SUSPICIONS_MAX: usize = 5;

/// What is suspicious about a route, and what to do about it, in sentences.
#[derive(Debug, PartialEq, Eq)]
pub struct Suspicion {
    pub detail: String,
    pub hint: &'static str,
}

/// The first routes of a valid scope that cannot be meant, at most [`SUSPICIONS_MAX`].
pub fn suspicions(row: &ScopeRow<'_>) -> Vec<Suspicion> {
    let placeholder = row.resource_id_in_path.unwrap_or_default();
    let routes = row.allowed_routes.iter().flat_map(|array| array.elements.iter().flatten()).enumerate();
    let of_route = |(at, route): (usize, &&[u8])| {
        let (method, path) = split_route(route).unwrap_or_default();
        let suspicion = move |what: &str, text: &[u8], (which, hint): (&str, &'static str)| {
            let has = quotable(text).map_or_else(|| format!("a {what}"), |text| format!("the {what} {text}"));
            Suspicion { detail: format!("Route {} has {has}, which {which}.", at + 1), hint }
        };
        let several = method == b"*" || method.contains(&b'|');
        let of_method = ("is compared as one method of that name", "Register a route for each method.");
        let of_method = several.then(|| suspicion("method", method, of_method));
        let of_segment = path
            .split(|byte| *byte == b'/')
            .find_map(|segment| Some(suspicion("segment", segment, about_segment(segment, placeholder)?)));
        of_method.into_iter().chain(of_segment)
    };
    routes.flat_map(of_route).take(SUSPICIONS_MAX).collect()
}

/// What a suspicious segment is, and what to do about it.
fn about_segment(segment: &[u8], placeholder: &[u8]) -> Option<(&'static str, &'static str)> {
    let is_name = segment.first() == Some(&b':') && {
        let after = segment.strip_prefix(placeholder).filter(|_| !placeholder.is_empty());
        // With the placeholder :id, the segment :idx would be x after the resource id.
        after.is_none_or(|after| after.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'))
    };
    if is_name {
        Some((
            "is not the placeholder",
            "To have a segment stand for the resource id, name it: resource_id_in_path => ':id'. Others are compared as \
             written.",
        ))
    } else if pieces(segment, placeholder).any(|piece| piece.contains(&b'*')) {
        Some((
            "is compared as it is written",
            "No character stands for others: register each path, or use the placeholder.",
        ))
    } else if matches!(segment.split(|byte| *byte == b';').next(), Some(b"." | b"..")) {
        Some((
            "no server that resolves dots lets through",
            "Servers cut what follows a semicolon, and then resolve the dots.",
        ))
    } else {
        None
    }
}
