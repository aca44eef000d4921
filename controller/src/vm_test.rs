//! A configuration installed on a virtual machine of this machine, by the test that disko makes for it.
//!
//! No other machine is reached, and nothing is remembered.

use std::io::{self, Write};

use engine::{
    journal::{Header, Journal, JournalError, Store},
    run::Run,
    step::{Context, Done, Repeat, Step},
};
use landfall_proto::{
    failure::Failure,
    order::{RunId, StorePath},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    exit::{Ended, Exit},
    local::{nix::Nix, signals::stopped},
    remote::link::LinkView,
    request::{Flake, NixOptions, VmTest},
    screen::{self, Screen, Style},
};

/// Builds the test of a configuration, shows it, and returns how it ended. Building it is running it.
///
/// Where the test passes, its path in the store is printed to stdout.
pub async fn vm_test(test: VmTest) -> Exit {
    let screen = Screen::new(Style::choose(test.output), "this machine");
    for remark in &test.remarks {
        screen.warning(remark);
    }
    let tested = tokio::select! {
        biased;
        () = stopped() => None,
        tested = build(&test, &screen) => Some(tested),
    };
    let ended = match &tested {
        Some(Ok(_)) => Ended::done(&screen.trail()),
        Some(Err(failure)) => Ended::failed(failure.clone(), &screen.trail()),
        None => Ended::interrupted(&screen.trail()),
    };
    screen.end(&ended, None);
    if let (Some(Ok(path)), false) = (tested, test.output.json) {
        // nobody reads: the exit code says it too
        let _ = writeln!(io::stdout(), "{path}");
    }
    ended.exit
}

async fn build(test: &VmTest, screen: &Screen) -> Result<StorePath, Failure> {
    let nix = Nix::new(NixOptions {
        // what the builder says is all there is to see
        print_build_logs: true,
        ..test.nix.clone()
    })?;
    let name = RunId::from_bytes(rand::random());
    let header = Header::new(name, &[InstallTest::NAME], String::new(), 0);
    let journal = Journal::begin(Nowhere, header).expect("nothing is written");
    let mut run = Run::begin(journal, CancellationToken::new())?;
    let link = watch::Sender::<LinkView>::default();
    let step = InstallTest {
        nix: &nix,
        flake: &test.flake,
    };
    let shown = screen::show(run.board(), link.subscribe(), screen.clone());
    let built = async {
        let path = run.step(&step).await?;
        run.finish()?;
        Ok(path)
    };
    let (built, ()) = tokio::join!(built, shown);
    built
}

/// Builds the test.
#[derive(Debug)]
struct InstallTest<'a> {
    nix: &'a Nix,
    flake: &'a Flake,
}

impl Step for InstallTest<'_> {
    const NAME: &'static str = "vm-test";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = StorePath;

    async fn run(&self, cx: &Context) -> Result<Done<StorePath>, Failure> {
        let path = self.nix.install_test(self.flake, cx).await?;
        Ok(Done::new(path))
    }

    async fn still_true(&self, _: &StorePath) -> bool {
        false
    }
}

/// A journal for what is over when the command is.
#[derive(Debug)]
struct Nowhere;

impl Store for Nowhere {
    fn append(&mut self, _: &[u8]) -> Result<(), JournalError> {
        Ok(())
    }
}
