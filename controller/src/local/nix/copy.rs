//! Copies between stores, and the addresses of stores.

use std::path::Path;

use engine::step::Context;
use landfall_proto::{failure::Failure, order::StorePath};

use super::Nix;
use crate::request::NixOptions;

impl Nix {
    /// Copies a closure to the store whose daemon listens on a socket; what is there already is left out.
    ///
    /// It comes from this machine's store, or from the one that was named. Signatures are not asked for: the store belongs
    /// to the machine that is being installed.
    pub async fn copy_to(
        &self,
        socket: &Path,
        path: &StorePath,
        cx: &Context,
    ) -> Result<(), Failure> {
        let mut call = self.call("copy", Some(cx));
        call.args(["--no-check-sigs"]);
        if self.options.substitute {
            call.args(["--substitute-on-destination"]);
        }
        if let Some(from) = &self.options.from {
            call.args(["--from", from]);
        }
        call.args(["--to", &address(socket, &self.options)]);
        let copied = call.run([path.as_str()]).await;
        copied.map(drop).map_err(|error| {
            error.causes_of(Failure::new(format!("cannot copy {path}")).code("LF0366"))
        })
    }

    /// Copies something of this machine's own store, wherever everything else comes from.
    pub async fn copy_own(
        &self,
        socket: &Path,
        path: &StorePath,
        cx: &Context,
    ) -> Result<(), Failure> {
        let mut own = self.clone();
        own.options.from = None;
        own.copy_to(socket, path, cx).await
    }

    /// Returns the store path that a path leads to, checked to be whole in the store that it is copied from.
    pub async fn check_path(&self, path: &Path) -> Result<StorePath, Failure> {
        let cannot = || {
            Failure::new(format!("cannot use {}", path.display()))
                .hint("name what `nix build --print-out-paths` printed")
                .code("LF0368")
        };
        let resolved = match tokio::fs::canonicalize(path).await {
            Ok(resolved) => resolved,
            // what comes from elsewhere need not be here
            Err(_) if self.options.from.is_some() => path.to_owned(),
            Err(error) => {
                return Err(cannot()
                    .because(format!("following {}", path.display()))
                    .caused_by(&error));
            }
        };
        let store_path: StorePath = resolved
            .to_string_lossy()
            .into_owned()
            .try_into()
            .map_err(|error| cannot().caused_by(&error))?;
        match self.look_up(&store_path).await {
            Ok(()) => Ok(store_path),
            Err(error) => Err(error.causes_of(cannot())),
        }
    }

    /// Whether the store that is copied from has a path.
    pub async fn has(&self, path: &StorePath) -> bool {
        self.look_up(path).await.is_ok()
    }

    /// Refuses a path that the store that is copied from lacks, where that is not this machine's own.
    pub async fn check_source(&self, path: &StorePath) -> Result<(), Failure> {
        let Some(from) = &self.options.from else {
            return Ok(());
        };
        self.look_up(path).await.map_err(|error| {
            error
                .causes_of(Failure::new(format!("cannot find {path} in {from}")))
                .hint(format!("put it there: `nix copy --to {from} {path}`"))
                .hint("leave out `--from`: it is in this machine's store")
                .code("LF0369")
        })
    }

    /// Whether everything comes from a store that is not this machine's own.
    pub fn copies_from_elsewhere(&self) -> bool {
        self.options.from.is_some()
    }

    async fn look_up(&self, path: &StorePath) -> Result<(), super::run::Error> {
        let mut call = self.call("path-info", None);
        if let Some(from) = &self.options.from {
            call.args(["--store", from]);
        }
        call.run([path.as_str()]).await.map(drop)
    }
}

/// Returns how nix names the store whose daemon listens on a socket.
pub(super) fn address(socket: &Path, options: &NixOptions) -> String {
    let query = options.store_query();
    match query.is_empty() {
        true => format!("unix://{}", socket.display()),
        false => format!("unix://{}?{query}", socket.display()),
    }
}
