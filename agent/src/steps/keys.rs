//! Waits until the key files are there that disko's script reads.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    failure::Failure,
    order::{Input, KeyPath},
};
use serde::{Deserialize, Serialize};

use super::Deliveries;
use crate::machine::Machine;

/// Waits for the key files.
#[derive(Debug)]
pub struct Keys<'a, D> {
    /// The machine.
    pub machine: &'a Machine,
    /// Who brings them.
    pub deliveries: &'a D,
    /// Where they lie.
    pub keys: &'a [KeyPath],
    /// Whether disko's script is still to be run. Nobody reads them after it, and who was to bring them may be gone.
    pub needed: bool,
}

/// Key files that are in their places. Says nothing of what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysReady {
    /// Where they lie.
    pub keys: Vec<KeyPath>,
}

impl<D: Deliveries> Step for Keys<'_, D> {
    const NAME: &'static str = "keys";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = KeysReady;

    async fn run(&self, cx: &Context) -> Result<Done<KeysReady>, Failure> {
        cx.waiting("the key files");
        self.deliveries.input(Input::Keys).await?;
        match self.missing().await {
            None => Ok(Done::new(KeysReady {
                keys: self.keys.to_vec(),
            })),
            Some(key) => Err(Failure::new(format!("cannot find key {key}"))
                .because("it was not delivered, or something removed it since")
                .hint("run the same command again; it delivers the keys again")
                .code("LF1311")),
        }
    }

    async fn still_true(&self, proof: &KeysReady) -> bool {
        proof.keys == self.keys && (!self.needed || self.missing().await.is_none())
    }
}

impl<D> Keys<'_, D> {
    async fn missing(&self) -> Option<KeyPath> {
        let keys = self.keys.to_vec();
        let look = move |machine: &Machine| machine.missing_key(&keys).cloned();
        self.machine.blocking(look).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        machine::stage::Stage,
        steps::rehearsal::{Delivered, run},
    };

    #[tokio::test]
    async fn proof_has_the_paths_and_nothing_else() {
        let stage = Stage::new().file("tmp/a.key", "secret");
        let (machine, deliveries) = (stage.machine(), Delivered("/".into()));
        let keys = ["/tmp/a.key".parse().unwrap(), "/tmp/b.key".parse().unwrap()];
        let step = |keys| Keys {
            machine: &machine,
            deliveries: &deliveries,
            keys,
            needed: true,
        };
        let proof = run(&step(&keys[..1])).await.unwrap();
        let json = serde_json::to_string(&proof).unwrap();
        assert_eq!(json, r#"{"keys":["/tmp/a.key"]}"#);
        assert!(step(&keys[..1]).still_true(&proof).await);
        assert!(!step(&keys).still_true(&proof).await);
        let failure = run(&step(&keys)).await.unwrap_err();
        assert_eq!(
            (failure.what.as_str(), failure.code.as_str()),
            ("cannot find key /tmp/b.key", "LF1311")
        );
    }
}
