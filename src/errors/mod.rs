//! Refusals and errors: what a caller is told when the answer is no.
//!
//! Lives here: how an error's texts are made; `table` has the texts that are the same each time. May not come in here:
//! rules, storage, and above all token text: no message is ever made of a token, a secret or a digest.

mod table;

pub use table::{Kind, Refusal};

use crate::pg::{self, IntoReport, Report};
use crate::scope::{self, MintProblem, Problem, RESOURCE_ID_MAX, SUSPICIONS_MAX, Suspicion};
use crate::values::{OutOfMemory, Seconds, Span};

impl Refusal {
    /// In the order of their numbers (`as usize`).
    pub const ALL: [Self; 5] =
        [Self::TokenNotFound, Self::TokenExpired, Self::ScopeUnknown, Self::RouteNotAllowed, Self::TokenUsedUp];

    /// The status that `temptoken_try_validate` answers.
    pub const fn name(self) -> &'static str {
        self.entry().name
    }
}

/// Ends a call that cannot answer. Its texts are in the database's encoding.
pub struct Error {
    entry: table::Entry,
    message: String,
    detail: String,
}

impl From<OutOfMemory> for Error {
    fn from(_: OutOfMemory) -> Self {
        Kind::OutOfMemory.into()
    }
}

impl From<pg::TableChanged> for Error {
    fn from(_: pg::TableChanged) -> Self {
        Kind::TablesMissing.into()
    }
}

impl From<pg::InParallelOperation> for Error {
    fn from(_: pg::InParallelOperation) -> Self {
        Kind::ParallelOperation.into()
    }
}

impl Error {
    /// Names `scope` in the message, where it may be quoted: `scope "files" is not registered`.
    fn about_scope(error: impl Into<Self>, scope: &[u8], rest: &str) -> Self {
        Self { message: format!("{} {rest}", named("scope", scope)), ..error.into() }
    }

    /// A refusal of validation. `scope` is the token's, if it is known.
    pub fn refusal(refusal: Refusal, scope: &[u8]) -> Self {
        match refusal {
            Refusal::ScopeUnknown => Self::scope_unknown(scope),
            Refusal::RouteNotAllowed => {
                Self::about_scope(refusal, scope, "does not allow this method and path for this token")
            }
            _ => refusal.into(),
        }
    }

    /// Mint: there is no scope of that name.
    pub fn scope_unknown(scope: &[u8]) -> Self {
        Self::about_scope(Refusal::ScopeUnknown, scope, "is not registered")
    }

    /// register_scope: the name is taken.
    pub fn scope_already_registered(scope: &[u8]) -> Self {
        Self::about_scope(Kind::ScopeAlreadyRegistered, scope, "is already registered")
    }

    /// Mint: the rules of `scope` forbid this token.
    pub fn mint(problem: MintProblem, scope: &[u8]) -> Self {
        match problem {
            MintProblem::Ttl { given, most } => {
                let rest = format!("allows a ttl greater than zero and at most {}", Seconds(most.into()));
                let text = given.map_or_else(|| "NULL".to_owned(), |ttl| ttl.to_string());
                let mut detail = format!("The ttl given is {text}.");
                if given.and_then(Span::length).is_some_and(|length| length <= most) {
                    detail += " It would end after the latest time that an id can hold, in 10889.";
                }
                Self { detail, ..Self::about_scope(Kind::TtlExceedsMax, scope, &rest) }
            }
            MintProblem::ResourceId => Self {
                detail: format!(
                    "It is NULL, longer than {RESOURCE_ID_MAX} bytes, or cannot stand in the paths of its scope."
                ),
                ..Kind::InvalidResourceId.into()
            },
            MintProblem::MaxUses => Kind::InvalidMaxUses.into(),
            MintProblem::MaxUsesOverScope { most } => Self {
                message: format!("max_uses is over the scope's, which is {most}"),
                ..Kind::InvalidMaxUses.into()
            },
        }
    }

    /// Mint: the metadata has more bytes than `most`.
    pub fn metadata_too_large(size: usize, most: usize) -> Self {
        let detail = format!("As a text it takes {size} bytes, and {most} are allowed.");
        Self { detail, ..Kind::MetadataTooLarge.into() }
    }

    /// A scope breaks a rule, whoever writes it.
    pub fn invalid_scope(scope: Option<&[u8]>, problem: &Problem) -> Self {
        let Problem::Rule(rule) = problem else { return Kind::OutOfMemory.into() };
        let error = Self::about_scope(Kind::InvalidScope, scope.unwrap_or_default(), "is invalid");
        Self { detail: format!("Rule broken: {rule}."), ..error }
    }

    /// The trigger function's column does not exist, or its type cannot be a resource id's.
    pub fn trigger_column(column: &[u8]) -> Self {
        Self { message: format!("{} cannot hold a resource id", named("column", column)), ..Kind::TriggerColumn.into() }
    }

    /// A request through PostgREST that is not authorized.
    pub fn unauthorized() -> Self {
        Self {
            detail: r#"{"status":401,"headers":{"WWW-Authenticate":"Bearer","Cache-Control":"no-store"}}"#.to_owned(),
            ..Kind::Unauthorized.into()
        }
    }
}

impl IntoReport for Error {
    fn into_report(self) -> Report {
        let entry = self.entry;
        let prefix = if entry.sqlstate == Kind::Unauthorized.entry().sqlstate { "" } else { "temptoken: " };
        let message = [prefix, &self.message].concat();
        Report::new(entry.sqlstate, message.as_bytes(), self.detail.as_bytes(), entry.hint.as_bytes())
            .unwrap_or(Report::OUT_OF_MEMORY)
    }
}

/// `what` with its name, if the name may be quoted: `scope "files"`. A caller's text gets into a message in no other way.
fn named(what: &str, name: &[u8]) -> String {
    scope::quotable(name).map_or_else(|| what.to_owned(), |name| format!("{what} \"{name}\""))
}

/// Sends a WARNING that routes of the scope `name` are probably mistakes.
pub fn warn_of_routes(name: &[u8], suspicions: &[Suspicion]) {
    if suspicions.is_empty() {
        return;
    }
    let message =
        format!("temptoken: {} is registered, and has routes that are probably mistakes", named("scope", name));
    let mut details: Vec<&str> = suspicions.iter().map(|suspicion| suspicion.detail.as_str()).collect();
    if suspicions.len() == SUSPICIONS_MAX {
        details.push("There may be more.");
    }
    let mut hints: Vec<&str> = Vec::new();
    for Suspicion { hint, .. } in suspicions {
        if !hints.contains(hint) {
            hints.push(hint);
        }
    }
    let (detail, hint) = (details.join("\n"), hints.join(" "));
    // Without memory for a warning there is none.
    if let Ok(report) = Report::new(b"01000", message.as_bytes(), detail.as_bytes(), hint.as_bytes()) {
        report.warn();
    }
}
