//! Routes that are valid, but probably not what their author meant.

use std::fmt;

use super::{ScopeRow, before_semicolon, pieces, quotable};

/// The most suspicions that are reported of one scope.
pub const SUSPICIONS_MAX: usize = 5;

/// A route that is valid, but probably not what its author meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// The route's place in the list, from 1.
    pub number: usize,
    pub kind: SuspicionKind,
    /// The segment or method; `None` where it may not be quoted.
    pub text: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspicionKind {
    /// A method `*`, or several with `|` between them.
    Method,
    /// A segment that starts with `:` and is not the placeholder, or goes on after it as a name does.
    Name,
    /// A segment with `*`.
    Wildcard,
    /// A segment that is `.` or `..` up to its first `;`.
    Dots,
}

impl SuspicionKind {
    /// What to do about it, as a sentence.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Method => "Register a route for each method.",
            Self::Name => {
                "To have a segment stand for the resource id, name it: resource_id_in_path => ':id'. Others are compared as written."
            }
            Self::Wildcard => "No character stands for others: register each path, or use the placeholder.",
            Self::Dots => "Servers cut what follows a semicolon, and then resolve the dots.",
        }
    }
}

impl fmt::Display for Suspicion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.kind == SuspicionKind::Method { "method" } else { "segment" };
        match &self.text {
            Some(text) => write!(out, "Route {} has the {what} {text}", self.number)?,
            None => write!(out, "Route {} has a {what}", self.number)?,
        }
        match self.kind {
            SuspicionKind::Method => write!(out, ", which is compared as one method of that name."),
            SuspicionKind::Name => write!(out, ", which is not the placeholder."),
            SuspicionKind::Wildcard => write!(out, ", which is compared as it is written."),
            SuspicionKind::Dots => write!(out, ", which no server that resolves dots lets through."),
        }
    }
}

/// The first routes of a valid scope that cannot be meant, at most [`SUSPICIONS_MAX`].
pub fn suspicions(row: &ScopeRow<'_>) -> Vec<Suspicion> {
    let placeholder = row.resource_id_in_path.unwrap_or_default();
    let routes = row.allowed_routes.iter().flat_map(|array| array.elements.iter().copied().flatten().enumerate());
    let of_route = |(index, route): (usize, &[u8])| {
        let mut words = route.splitn(2, |byte| *byte == b' ');
        let method = words.next().filter(|method| *method == b"*" || method.contains(&b'|'));
        let method = method.map(|method| (SuspicionKind::Method, method));
        let mut segments = words.next().unwrap_or_default().split(|byte| *byte == b'/');
        let segment = segments.find_map(|segment| Some((suspicion_of_segment(segment, placeholder)?, segment)));
        let suspicion =
            move |(kind, text)| Suspicion { number: index + 1, kind, text: quotable(text).map(String::from) };
        method.into_iter().chain(segment).map(suspicion).collect::<Vec<_>>()
    };
    routes.flat_map(of_route).take(SUSPICIONS_MAX).collect()
}

fn suspicion_of_segment(segment: &[u8], placeholder: &[u8]) -> Option<SuspicionKind> {
    let is_name = segment.first() == Some(&b':') && {
        let after = segment.strip_prefix(placeholder).filter(|_| !placeholder.is_empty());
        // With the placeholder :id, the segment :idx would be x after the resource id.
        after.is_none_or(|after| after.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'))
    };
    if is_name {
        Some(SuspicionKind::Name)
    } else if pieces(segment, placeholder).any(|piece| piece.contains(&b'*')) {
        Some(SuspicionKind::Wildcard)
    } else if matches!(before_semicolon(segment), b"." | b"..") {
        Some(SuspicionKind::Dots)
    } else {
        None
    }
}
