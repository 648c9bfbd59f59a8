//! temptoken: short-lived bearer tokens for PostgreSQL, validated against the request that presents them.
//!
//! Lives here: the list of rooms, the magic block, and what happens when the library is loaded. Nothing else.
//!
//! Imports run one way: `api` and `sweep` → `mint`, `validate` → `store` → the rules, `token` and `scope`, in which there
//! is no PostgreSQL. Beside that way stand what a transaction knows of its caller (`identity`), what is counted
//! (`counters`), and two formats of others (`postgrest`, `introspection`). `pg` is the seam to the server, `errors` and
//! `settings` are what their names say.

mod api;
mod counters;
mod errors;
mod identity;
mod introspection;
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
