//! Tests that drive real servers from outside, each a cluster of its own. They are one program, so that they run at the
//! same time: most of them wait most of the time.

#[path = "../common/mod.rs"]
mod common;

mod citus;
mod clusters;
mod cron;
mod hardening;
mod lifecycle;
mod packaging;
mod standbys;
mod sweep_status;
mod sweep_trouble;
mod sweeper;
mod uses;
