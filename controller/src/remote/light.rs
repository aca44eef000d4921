//! Where a reader is among the light events of an agent.

/// Where a reader is among the light events of one agent process.
#[derive(Debug, Default)]
pub(super) struct Light {
    process: u64,
    /// Number of the next one.
    pub(super) next: u64,
}

impl Light {
    /// Starts anew where the agent did: light events are numbered per process.
    pub(super) fn of(&mut self, process: u64) {
        if self.process != process {
            *self = Self { process, next: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn light_events_are_counted_per_process() {
        let mut light = Light {
            process: 1,
            next: 7,
        };
        light.of(1);
        assert_eq!(light.next, 7);
        light.of(2);
        assert_eq!(light.next, 0);
    }
}
