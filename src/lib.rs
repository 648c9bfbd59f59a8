//! temptoken: short-lived bearer tokens for PostgreSQL, validated against the request that presents them.
//!
//! Lives here: the list of rooms, the magic block, and what happens when the library is loaded. Nothing else.
//!
//! Imports run one way. What SQL can call is in `api`; it reads arguments and calls `mint` and `validate`, which say in
//! which order a request is judged. They ask `store`, which owns the tables, and the rules: `token` and `scope`, in which
//! there is no PostgreSQL. `sweep` is the background workers, and uses the store like any caller.
//!
//! Beside that way: `identity`, the token that a transaction has presented; `counters`, what validation has answered;
//! `postgrest`, where a request is in PostgREST's settings; `errors`, every refusal and message; `settings`. Below all:
//! `pg`, the seam to the server; `values`, shapes of SQL values; `memory`, the allocator.

mod api;
mod counters;
mod errors;
mod identity;
mod memory;
mod mint;
mod pg;
mod postgrest;
mod scope;
mod settings;
mod store;
mod sweep;
mod token;
mod validate;
mod values;

pgrx::pg_module_magic!();

pgrx::extension_sql_file!("../sql/tables.sql", name = "tables", bootstrap);
pgrx::extension_sql_file!("../sql/functions.sql", name = "functions", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/stats.sql", name = "stats", requires = ["functions"]);
pgrx::extension_sql_file!("../sql/sweep.sql", name = "sweep", requires = ["stats"]);
pgrx::extension_sql_file!("../sql/roles.sql", name = "roles", requires = ["sweep"]);
pgrx::extension_sql_file!("../sql/privileges.sql", name = "privileges", finalize);

/// Called by PostgreSQL when it loads the library: in the postmaster, where preloaded, or in a session.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::disable_backtraces();
    settings::define();
    store::watch();
    identity::watch();
    counters::init();
    sweep::init();
}
