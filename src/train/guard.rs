//! What happens when a gradient is not finite: skip and count, then roll back at half the rate, then stop.

use super::state::TrainState;

/// Consecutive skipped updates that lead to a roll-back.
const SKIPS_BEFORE_ROLLBACK: u32 = 3;
/// Roll-backs of one run, after which it is given up.
const MAX_ROLLBACKS: u32 = 3;

/// What to do about an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Leave the weights as they are and go on with the next batch.
    Skip,
    /// Return to the last good checkpoint.
    RollBack,
    /// Give up.
    Stop,
}

/// Counts one non-finite update and decides.
pub(super) fn on_non_finite(state: &mut TrainState, has_checkpoint: bool) -> Action {
    state.skipped_updates += 1;
    state.skipped_in_a_row += 1;
    if state.skipped_in_a_row < SKIPS_BEFORE_ROLLBACK {
        Action::Skip
    } else if has_checkpoint && state.rollbacks < MAX_ROLLBACKS {
        Action::RollBack
    } else {
        Action::Stop
    }
}

/// A good update ends a row of bad ones.
pub(super) fn on_finite(state: &mut TrainState) {
    state.skipped_in_a_row = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_row_roll_back_and_the_fourth_roll_back_is_a_stop() {
        let mut state = TrainState::new(String::new(), String::new());
        for _ in 0..MAX_ROLLBACKS {
            assert_eq!(on_non_finite(&mut state, true), Action::Skip);
            assert_eq!(on_non_finite(&mut state, true), Action::Skip);
            assert_eq!(on_non_finite(&mut state, true), Action::RollBack);
            let good = TrainState::new(String::new(), String::new());
            state.roll_back_to(good);
        }
        on_non_finite(&mut state, true);
        on_non_finite(&mut state, true);
        assert_eq!(on_non_finite(&mut state, true), Action::Stop);
        assert_eq!(state.schedule.scale, 0.125);
    }

    #[test]
    fn a_good_update_in_between_starts_the_count_anew() {
        let mut state = TrainState::new(String::new(), String::new());
        on_non_finite(&mut state, true);
        on_non_finite(&mut state, true);
        on_finite(&mut state);
        assert_eq!(on_non_finite(&mut state, true), Action::Skip);
        assert_eq!(state.skipped_updates, 3);
    }

    #[test]
    fn without_a_checkpoint_there_is_nothing_to_return_to() {
        let mut state = TrainState::new(String::new(), String::new());
        on_non_finite(&mut state, false);
        on_non_finite(&mut state, false);
        assert_eq!(on_non_finite(&mut state, false), Action::Stop);
    }
}
