//! Citus clusters, where the PostgreSQL under test has Citus.

use std::path::Path;

use super::{Cluster, pg_config, scale_out, skipped, text};

/// A coordinator and two workers, with the extension, and its table of tokens in shards on the workers.
pub struct Citus {
    pub coordinator: Cluster,
    pub workers: [Cluster; 2],
}

impl Citus {
    /// With the extension in `database`, and these lines added to the coordinator's postgresql.conf. `None`, and the test is noted as
    /// skipped, if this PostgreSQL has no Citus.
    pub fn start(database: &str, settings: &[&str]) -> Option<Self> {
        if !Path::new(&pg_config("--pkglibdir")).join("citus.so").exists() {
            skipped("this PostgreSQL has no Citus");
            return None;
        }
        let own = [
            "shared_preload_libraries = 'citus'",
            "max_connections = 300",
            "max_prepared_transactions = 300",
            "citus.enable_statistics_collection = off",
        ];
        let server = |settings: &[&str]| {
            let cluster = Cluster::start(&[&own, settings].concat());
            if database != "postgres" {
                let create = format!("CREATE DATABASE {database} TEMPLATE template0");
                cluster.connect("postgres").batch_execute(&create).unwrap();
            }
            cluster.connect(database).batch_execute("CREATE EXTENSION citus").unwrap();
            cluster
        };
        let citus = Self { coordinator: server(settings), workers: [server(&[]), server(&[])] };
        let mut client = citus.coordinator.connect(database);
        // A directory of a socket is a host to libpq, so that no server listens on a port.
        let add = |function: &str, node: &Cluster| format!("SELECT {function}('{}', 5432)", node.socket().display());
        text(&mut client, &add("citus_set_coordinator_host", &citus.coordinator));
        for worker in &citus.workers {
            text(&mut client, &add("citus_add_node", worker));
        }
        client.batch_execute("CREATE EXTENSION temptoken").unwrap();
        citus.coordinator.run_script(database, &scale_out("create_distributed_table"));
        Some(citus)
    }
}
