//! The states of a launcher that is started by hand, without a server.

#[allow(dead_code)]
#[path = "../src/sweep/by_hand_state.rs"]
mod by_hand_state;

use by_hand_state::{ByHand, Hello, State};

/// What is around the state: processes.
struct World {
    place: ByHand,
    /// Launchers that the postmaster knows: the id, and the pid if there is a process now.
    launchers: Vec<(i64, Option<i32>)>,
    sessions: Vec<i32>,
    /// The next pid and id.
    next: i32,
    random: u64,
}

impl World {
    /// A number below `bound`.
    fn pick(&mut self, bound: usize) -> usize {
        // Knuth, MMIX.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % bound
    }

    fn new_number(&mut self) -> i32 {
        self.next += 1;
        self.next
    }

    fn is_alive(&self) -> bool {
        let pid = self.place.pid;
        self.sessions.contains(&pid) || self.launchers.iter().any(|(_, process)| *process == Some(pid))
    }

    /// A session starts a launcher. It may be cancelled or die at any point, and another may stop it meanwhile.
    fn start(&mut self) {
        let (me, id) = (self.new_number(), self.new_number().into());
        self.sessions.push(me);
        if self.place.reserve(me, id, self.is_alive()) {
            if self.pick(4) == 0 {
                self.stop();
            }
            match self.pick(8) {
                0 => {}
                1 => self.place.not_registered(id),
                end => {
                    self.launchers.push((id, None));
                    if self.pick(2) == 0 {
                        self.hello(self.launchers.len() - 1);
                    }
                    self.place.registered(id, 0);
                    if end > 2 {
                        let process = self.launchers.iter().find(|(other, _)| *other == id).and_then(|(_, pid)| *pid);
                        self.place.registered(id, process.unwrap_or(0));
                    }
                }
            }
        }
        self.sessions.retain(|session| *session != me);
    }

    fn stop(&mut self) {
        let is_alive = self.is_alive();
        let was = self.place.state;
        assert_eq!(self.place.stop(is_alive), was != State::None && (was != State::Stopping || is_alive));
    }

    /// The postmaster starts launcher `at`, for the first time or again.
    fn hello(&mut self, at: usize) {
        let (id, pid) = (self.launchers[at].0, self.new_number());
        self.launchers[at].1 = Some(pid);
        match self.place.hello(pid, id, 0) {
            Hello::Welcome => self.look(at),
            Hello::Unknown => _ = self.launchers.remove(at),
            Hello::AfterCrash => panic!("there was no crash"),
        }
    }

    /// Launcher `at` looks whether it goes on.
    fn look(&mut self, at: usize) {
        if let (id, Some(pid)) = self.launchers[at]
            && !self.place.goes_on(pid, id)
        {
            self.launchers.remove(at);
        }
    }

    fn each(&mut self, act: fn(&mut Self, usize)) {
        (0..self.launchers.len()).rev().for_each(|at| act(self, at));
    }
}

#[test]
fn whatever_happens_there_is_one_launcher_if_one_is_wanted_and_else_none() {
    let mut outcomes = [0; 2];
    for seed in 0..20_000 {
        let mut world =
            World { place: ByHand::NONE, launchers: Vec::new(), sessions: Vec::new(), next: 0, random: seed };
        for _ in 0..20 {
            let at = world.launchers.len().checked_sub(1).map(|last| world.pick(last + 1));
            match (world.pick(5), at) {
                (0, _) => world.start(),
                (1, _) => world.stop(),
                (2, Some(at)) if world.launchers[at].1.is_none() => world.hello(at),
                // It ends with an error.
                (3, Some(at)) => world.launchers[at].1 = None,
                (4, Some(at)) => world.look(at),
                _ => {}
            }
        }
        // Time passes.
        world.each(|world, at| {
            if world.launchers[at].1.is_none() {
                world.hello(at);
            }
        });
        world.each(World::look);
        let wanted = usize::from(world.place.state == State::Running);
        assert_eq!(world.launchers.len(), wanted, "seed {seed}: {:?}", world.place.state);
        assert_ne!(world.place.state, State::Stopping, "seed {seed}");
        outcomes[wanted] += 1;
        // It can be started, whatever was before, and stopped.
        let (me, id) = (world.new_number(), world.new_number().into());
        assert_eq!(world.place.reserve(me, id, world.is_alive()), wanted == 0, "seed {seed}");
    }
    assert!(outcomes.iter().all(|outcome| *outcome > 2_000), "{outcomes:?}");
}

#[test]
fn a_launcher_that_survived_a_crash_takes_the_empty_place() {
    let mut place = ByHand::NONE;
    assert_eq!(place.hello(7, 100, 200), Hello::AfterCrash);
    assert!(place.goes_on(7, 100));
    // One that was forgotten, because the extension was dropped, does not.
    let mut place = ByHand::NONE;
    assert_eq!(place.hello(7, 300, 200), Hello::Unknown);
    // Nor does one that comes after another has been started.
    assert!(place.reserve(8, 400, false));
    assert_eq!(place.hello(7, 100, 200), Hello::Unknown);
    assert_eq!(place.hello(9, 400, 200), Hello::Welcome);
}
