//! Concurrency: how much is validated by 1 to 32 clients, alone, and while others mint, spend and sweep.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::Bench;
use crate::charts::Series;
use crate::client::{Ending, Postgres, Until, drive};
use crate::common::text;
use crate::measure::{Measured, Pair, Reading, interleave};
use crate::over_socket::{VALIDATE, calls, clients_in_words, postgres_client};
use crate::report::{Report, table_of_lines};
use crate::servers::{connect, mint_expired};

const ROUNDS: usize = 3;
const TURN: Duration = Duration::from_millis(700);

pub fn mixed(bench: &Bench, report: &mut Report) {
    const GROUP: &str = "Validate while others mint, spend and sweep";
    let calls = calls(bench);
    let mut sweeper = connect(&bench.cluster, &bench.main);
    let register = "SELECT temptoken_register_scope('limited', ARRAY['GET /limited'], '1 day', max_uses => 1000000000)";
    sweeper.simple_query(register).unwrap();
    let limited = text(&mut sweeper, "SELECT temptoken_mint('limited', '', '1 day')");
    let mut minter =
        Postgres::prepare(bench.cluster.socket(), &bench.main, "SELECT temptoken_mint('files', 'x', '1 day')");
    let mut spender = Postgres::prepare(bench.cluster.socket(), &bench.main, VALIDATE);

    let mut lines = [Series::new("validate alone"), Series::new("beside mints, spends and sweeps")];
    for count in [1, 2, 4, 8, 16, 32] {
        let clients = || -> Vec<_> {
            (0..count)
                .map(|number| postgres_client(bench, &calls, number, VALIDATE, |call| vec![&call.token, &call.path]))
                .collect()
        };
        let (mut alone, mut beside) = (clients(), clients());
        let rounds = interleave(
            ROUNDS,
            &mut [
                Box::new(|_| drive(&mut alone, Until::After(TURN)).rate),
                Box::new(|_| {
                    let busy = AtomicBool::new(true);
                    let goes_on = || busy.load(Ordering::Relaxed);
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            while goes_on() {
                                minter.run(&[]);
                            }
                        });
                        scope.spawn(|| {
                            while goes_on() {
                                assert_eq!(spender.run(&[&limited, "/limited"]), 1);
                            }
                        });
                        scope.spawn(|| {
                            while goes_on() {
                                mint_expired(&mut sweeper, 5_000);
                                text(&mut sweeper, "SELECT temptoken_delete_expired()");
                            }
                        });
                        let _ending = Ending(&busy);
                        drive(&mut beside, Until::After(TURN)).rate
                    })
                }),
            ],
        );
        let measured: Vec<_> = lines
            .iter()
            .zip(rounds)
            .map(|(line, rounds)| Measured::new(format!("{}, {}", line.name, clients_in_words(count)), "/s", rounds))
            .collect();
        report.add(Pair::new(GROUP, Reading::Rate, None, &measured[1], &measured[0]));
        for (line, measured) in lines.iter_mut().zip(&measured) {
            line.points.push((count as f64, measured.median()));
        }
    }
    report.add_lines(
        "load",
        "Validations a second over a unix socket (this machine's)",
        ("clients", "validations a second"),
        &lines,
    );
    report.add_table(table_of_lines("Validations a second (this machine's)", "clients", &lines));
}
