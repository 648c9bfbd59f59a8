//! The table of errors: name, SQLSTATE, message and hint of each. Class TT is this extension's own, PGRST is PostgREST's,
//! the others are PostgreSQL's.

use super::Error;

#[derive(Clone, Copy)]
pub struct Entry {
    pub name: &'static str,
    pub sqlstate: &'static [u8; 5],
    pub message: &'static str,
    pub hint: &'static str,
}

macro_rules! table {
    ($(#[$doc:meta])* $table:ident, $($error:ident: $name:literal, $sqlstate:literal, $message:literal, $hint:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $table {
            $($error,)*
        }

        impl $table {
            pub const fn entry(self) -> Entry {
                match self {
                    $(Self::$error => Entry { name: $name, sqlstate: $sqlstate, message: $message, hint: $hint },)*
                }
            }
        }

        impl From<$table> for Error {
            fn from(error: $table) -> Self {
                let entry = error.entry();
                Self { entry, message: entry.message.to_owned(), detail: String::new() }
            }
        }
    };
}

table! {
    /// Validation's answer to a request that it does not authorize, in the order in which it judges.
    Refusal,
    TokenNotFound: "token_not_found", b"TT001", "token not found",
        "It was deleted or swept, was never minted here, or is not a whole token. Mint a new one.";
    TokenExpired: "token_expired", b"TT002", "token expired",
        "Mint a new token.";
    ScopeUnknown: "scope_unknown", b"TT003", "scope is not registered",
        "Register it with temptoken_register_scope().";
    RouteNotAllowed: "route_not_allowed", b"TT004", "route not allowed",
        "Pass the method and the raw path as the router sees it: before decoding, without the query string.";
    TokenUsedUp: "token_used_up", b"TT006", "token used up",
        "Mint a new token.";
}

table! {
    /// Every other error that is not PostgreSQL's own.
    Kind,
    TtlExceedsMax: "ttl_exceeds_max", b"TT005", "ttl is not allowed",
        "Pass a finite interval greater than zero, without months or years, and at most the scope's max_ttl. PostgreSQL \
         reads a number without a unit as seconds.";
    ScopeAlreadyRegistered: "scope_already_registered", b"TT010", "scope is already registered",
        "To change a registered scope, pass replace => true.";
    InvalidScope: "invalid_scope", b"TT011", "invalid scope",
        "A scope looks like temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}').";
    InvalidResourceId: "invalid_resource_id", b"TT012", "invalid resource id",
        "Where the scope has a placeholder, pass one path segment of RFC 3986 characters without percent-encoding and \
         semicolon, which is not . or .. (dots).";
    InvalidMaxUses: "invalid_parameter_value", b"22023", "max_uses must be positive",
        "Pass NULL for the scope's own limit, or a positive number that is not over it.";
    MetadataTooLarge: "program_limit_exceeded", b"54000", "metadata is too large",
        "Keep what is large in a table of your own, and its key in the metadata.";
    MetadataTooDeep: "program_limit_exceeded", b"54000", "metadata is nested in more than 64 levels",
        "Keep it flat. Other parsers of JSON have such limits too.";
    InvalidArray: "array_subscript_error", b"2202E", "resource_ids must be a one-dimensional array",
        "Pass ARRAY['id 1', 'id 2'].";
    RepeatedResourceId: "invalid_parameter_value", b"22023", "resource_ids names a resource id twice",
        "With replace => true, name each resource id once: only one token of it can be the newest.";
    TooManyResourceIds: "program_limit_exceeded", b"54000", "resource_ids has more than 1000000 elements",
        "Mint them in several calls.";
    OutOfMemory: "out_of_memory", b"53200", "out of memory",
        "Pass less at a time.";
    TemporaryObject: "insufficient_privilege", b"42501",
        "this session has a temporary table or type, and the extension's tables have code of their owner's",
        "Drop it (DISCARD TEMP). A trigger, rule or the like runs with the owner's rights, and could take it for a table or \
         type of its own.";
    OrdinaryOwner: "insufficient_privilege", b"42501",
        "the extension's tables belong to an ordinary role, and this session may have a superuser's rights",
        "Log in as an ordinary role. Or drop the extension, and create it again with tables of a superuser's. The owner's code \
         could get at the rights of this session, and stays on tables that are given to another owner.";
    ReachedTable: "insufficient_privilege", b"42501",
        "a table that foreign keys or partitions tie to the extension's, or the function of a trigger on it, belongs to an ordinary role",
        "Its code runs with the rights of the owner of the extension's tables, or amid theirs. Drop the trigger or the foreign \
         key. Or have a table in its place that the owner of the extension's tables has made, and that uses nothing of other \
         roles'. What hangs on a table stays when it is given to another owner.";
    NoRandomness: "system_error", b"58000", "the operating system gave no random bytes",
        "Check that the getrandom system call is permitted to the server.";
    TablesMissing: "undefined_table", b"42P01", "the extension's tables are missing or were altered in this database",
        "Give the tables of schema temptoken their columns back, or drop the extension and create it again.";
    ParallelOperation: "invalid_transaction_state", b"25000", "this function cannot run in a parallel operation",
        "Declare the function of yours that calls it PARALLEL UNSAFE, which is the default.";
    NoTrigger: "trigger_protocol_violated", b"39P01",
        "temptoken_delete_by_resource_id_trigger() is not called as a trigger that it can be",
        "Create it AFTER DELETE OR UPDATE, FOR EACH ROW.";
    TriggerPrivilege: "insufficient_privilege", b"42501",
        "the owner of the table may not execute temptoken_delete_by_resource_id_trigger()",
        "Drop the trigger, or let that role execute the function, by GRANT EXECUTE or the privilege 'issue'. Where the table is \
         a partition, the owners of its parents need it too.";
    TriggerArguments: "invalid_parameter_value", b"22023",
        "temptoken_delete_by_resource_id_trigger() takes two arguments",
        "EXECUTE FUNCTION temptoken_delete_by_resource_id_trigger('scope', 'column')";
    TriggerColumn: "undefined_column", b"42703",
        "the column of temptoken_delete_by_resource_id_trigger() cannot hold a resource id",
        "Name a column of the trigger's table that is of type text, varchar, uuid, smallint, integer or bigint, and not a virtual \
         generated one.";
    SweepPreloaded: "object_not_in_prerequisite_state", b"55000",
        "the library is preloaded, and its sweep worker starts and ends with the server",
        "To choose the databases that it sweeps, set temptoken.sweep_databases.";
    SweepExcluded: "object_not_in_prerequisite_state", b"55000",
        "this database is a template, or not named by temptoken.sweep_databases",
        "Add its name to temptoken.sweep_databases, and reload the configuration.";
    NoWorkerSlot: "insufficient_resources", b"53000", "no two background worker slots are free",
        "The launcher keeps one, and each sweep needs another. Raise max_worker_processes, which takes a restart of the server.";
    // PostgREST makes its answer of the JSON in message and detail (its documentation, "Errors", "RAISE Headers"): 401,
    // the same for every refusal.
    Unauthorized: "unauthorized", b"PGRST", r#"{"code":"401","message":"unauthorized","details":null,"hint":null}"#, "";
}
