//! Stopping a real process: it saves, says how to go on, and goes on.

use super::toy::{done, Toy};
use rustix::process::{kill_process, Pid, Signal};

#[test]
fn each_signal_saves_and_prints_the_command_that_goes_on() {
    for signal in [Signal::INT, Signal::TERM, Signal::USR1] {
        let toy = Toy::new();
        let child = toy.start_long_run();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let stopped = done(child).exits(75);
        assert_eq!(stopped.err, "", "quiet");
        let end = toy.rows("run").pop().unwrap();
        assert_eq!(end["stop_reason"], "signal");
        assert_eq!(end["resume_command"], "nmt-train --resume run");
        let step = end["step"].as_u64().unwrap();
        assert!(toy.exists(&format!("run/checkpoints/step-{step:08}/manifest.json")));
        assert!(!toy.exists("run/lock"));

        let done = toy.run(&format!("--resume run --set train.max_updates={}", step + 3)).exits(0);
        done.tells(&[
            &format!("goes on after           update {}", nmt_train::units::count(step)),
            &format!("stopped at step {}: max_updates", step + 3),
        ]);
    }
}

#[test]
fn max_hours_saves_and_prints_the_command_that_goes_on() {
    let toy = Toy::new();
    let stopped = toy.run("--config toy.toml --set train.max_hours=1e-9 --final-json -").exits(75);
    let stopped = stopped.tells(&["max_hours", "resume  nmt-train --resume run"]);
    let end: serde_json::Value = serde_json::from_str(&stopped.out).unwrap();
    assert_eq!((&end["stop_reason"], &end["resume_command"]), (&"max_hours".into(), &"nmt-train --resume run".into()));
    let done = toy.run("--resume run --set train.max_hours=0").exits(0);
    done.tells(&["changed: train.max_hours: 1e-9 -> 0.0", "stopped at step 60: max_updates"]);
}
