//! A command about a run that is there already: where it goes to, and which of its words stand above those of the run.

use super::{Request, Resume};

/// A command that begins no run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// The way to the machine, and what is shown. Asks for nothing that changes it.
    pub request: Request,
    /// Names of the options that stand on its command line.
    pub given: Vec<String>,
}

impl Visit {
    /// Returns what a run asked for, with the way to the machine and the screen of this command.
    ///
    /// It is taken up and seen to its end, whatever its own command line says about that.
    pub fn over(&self, recorded: Request) -> Request {
        let own = &self.request;
        let given = |id: &str| self.given.iter().any(|given| given == id);
        let mut request = Request {
            resume: Resume::Require,
            detach: false,
            output: own.output,
            remarks: own.remarks.clone(),
            ..recorded
        };
        let login = &mut request.login;
        if given("identity") {
            login.identity.clone_from(&own.login.identity);
            login.env_key = false;
        }
        if given("ssh_option") {
            login.options.clone_from(&own.login.options);
        }
        login.env_password |= own.login.env_password;
        if given("sudo_password_file") || given("env_sudo_password") {
            request.privilege = own.privilege.clone();
        }
        if given("host_key_policy") {
            request.host_key = own.host_key;
        }
        if given("host_key") {
            request.fingerprints.clone_from(&own.fingerprints);
        }
        if given("reconnect_timeout") {
            request.reconnect_timeout = own.reconnect_timeout;
        }
        request
    }
}
