//! What can be wrong with a scope, in words for the person who wrote it.

use std::fmt;

use super::{NAME_MAX, PLACEHOLDER_MAX, ROUTE_MAX, ROUTES_MAX};
use crate::values::OutOfMemory;

/// The rule that a scope breaks. A number is that of a route or element, from 1.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    NameMissing,
    NameTooLong,
    NameMalformed,
    RoutesMissing,
    NotOneDimensional(&'static str),
    NullElement(&'static str),
    TooLong(&'static str),
    PlaceholderNull,
    PlaceholderMalformed,
    RouteMalformed(usize),
    /// The route has a space too many: where.
    Space(usize, &'static str),
    RouteTooLong(usize),
    MethodMalformed(usize),
    PathMalformed(usize),
    /// `text` in brackets is not the placeholder of the scope, which may be empty. `None` for what may not be quoted.
    OtherPlaceholder {
        number: usize,
        text: Option<String>,
        placeholder: Option<String>,
    },
    /// The route lacks the placeholder of the scope. `None` if that may not be quoted.
    PlaceholderMissing(usize, Option<String>),
    TtlMalformed,
    MaxUsesNotPositive,
    SpendingMethodsEmpty,
    SpendingMethodUnknown(usize),
    /// No rule is broken, but there is no memory for the scope.
    OutOfMemory,
}

impl From<OutOfMemory> for Problem {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ONE_SPACE: &str = "its only space is the one between METHOD and /path";
        match self {
            Self::NameMissing => write!(out, "the name is NULL or empty"),
            Self::NameTooLong => write!(out, "the name is longer than {NAME_MAX} bytes"),
            Self::NameMalformed => write!(
                out,
                "the name is not made of visible ASCII characters other than \" and \\ (scope-token, RFC 6749)"
            ),
            Self::RoutesMissing => write!(out, "allowed_routes is NULL or empty"),
            Self::NotOneDimensional(what) => write!(out, "{what} is not a one-dimensional array"),
            Self::NullElement(what) => write!(out, "{what} contains NULL"),
            Self::TooLong(what) => write!(out, "{what} has more than {ROUTES_MAX} elements"),
            Self::PlaceholderNull => write!(out, "resource_id_in_path is NULL; without a placeholder it is ''"),
            Self::PlaceholderMalformed => write!(
                out,
                "resource_id_in_path is not made of at most {PLACEHOLDER_MAX} visible ASCII characters other than / ? # %"
            ),
            Self::RouteMalformed(number) => write!(out, "route {number} is not of the form METHOD /path"),
            Self::Space(number, what) => write!(out, "route {number} {what}; {ONE_SPACE}"),
            Self::RouteTooLong(number) => write!(out, "route {number} is longer than {ROUTE_MAX} bytes"),
            Self::MethodMalformed(number) => write!(out, "the method of route {number} is not a token of RFC 9110"),
            Self::PathMalformed(number) => write!(
                out,
                "the path of route {number} is not made of segments of RFC 3986 path characters without \
                 percent-encoding, none of them empty, \".\" or \"..\""
            ),
            Self::OtherPlaceholder { number, text, placeholder } => {
                write!(out, "route {number} contains {}, ", text.as_deref().unwrap_or("text in brackets"))?;
                match placeholder.as_deref() {
                    Some("") => write!(out, "but resource_id_in_path is ''"),
                    Some(own) => write!(out, "which is not {own}, the placeholder of resource_id_in_path"),
                    None => write!(out, "which is not the placeholder of resource_id_in_path"),
                }
            }
            Self::PlaceholderMissing(number, Some(own)) => {
                write!(out, "route {number} does not contain {own}, the placeholder of resource_id_in_path")
            }
            Self::PlaceholderMissing(number, None) => {
                write!(out, "route {number} does not contain the placeholder of resource_id_in_path")
            }
            Self::TtlMalformed => write!(out, "max_ttl is not a positive, finite interval without months or years"),
            Self::MaxUsesNotPositive => write!(out, "max_uses is not positive"),
            Self::SpendingMethodsEmpty => write!(out, "spending_methods is empty; NULL means every method"),
            Self::SpendingMethodUnknown(number) => {
                write!(out, "element {number} of spending_methods is the method of no route")
            }
            Self::OutOfMemory => write!(out, "there is no memory for the scope"),
        }
    }
}
