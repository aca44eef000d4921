//! Options that stand on one command line twice, though only one of them can count.
//!
//! nixos-anywhere takes the last without a word, and scripts rely on it: a wrapper's default, then `"$@"`. Clap refuses
//! the second. Here the last counts and the user is told, because a word that is passed over in silence may have been
//! the one that was meant. Which machine is erased is no matter for a guess: two of them are refused.

use std::ffi::OsString;

use clap::{
    ArgMatches, Command, Id,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Options that must not be given twice.
const ONCE: &[&str] = &["target_host"];

/// Reads a command line, and says which options were given more than once.
pub(super) fn parse(
    mut command: Command,
    words: &[OsString],
) -> Result<(ArgMatches, Vec<String>), clap::Error> {
    let mut remarks = Vec::new();
    loop {
        let error = match command.clone().try_get_matches_from(words) {
            Ok(matches) => return Ok((matches, remarks)),
            Err(error) => error,
        };
        let Some(option) = given_twice(&error) else {
            return Err(error);
        };
        let Some((relaxed, has_value)) = last_counts(command, &option) else {
            return Err(error);
        };
        command = relaxed;
        if has_value {
            let name = option.split(' ').next().unwrap_or_default();
            remarks.push(format!(
                "`{name}` is given more than once; continuing because the last one counts"
            ));
        }
    }
}

/// Returns the option that an error is about, as clap writes it, if the error is that it was given twice.
fn given_twice(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let option = text(ContextKind::InvalidArg)?;
    let same = text(ContextKind::PriorArg)? == option;
    (error.kind() == ErrorKind::ArgumentConflict && same).then_some(option)
}

/// Lets the last one count of an option that clap writes in this way, and tells whether it has a value.
fn last_counts(mut command: Command, option: &str) -> Option<(Command, bool)> {
    // how clap writes an option is known only once the command is built, and then it cannot be changed any more
    let mut built = command.clone();
    built.build();
    let found = |command: &Command| {
        let mut args = command.get_arguments();
        let arg = args.find(|arg| arg.to_string() == option)?;
        let once = ONCE.contains(&arg.get_id().as_str());
        (!once).then(|| (arg.get_id().clone(), arg.get_action().takes_values()))
    };
    let relax =
        |command: Command, id: &Id| command.mut_arg(id, |arg| arg.overrides_with(id.clone()));
    let mut has_value = None;
    if let Some((id, values)) = found(&built) {
        command = relax(command, &id);
        has_value = Some(values);
    }
    for one in built.get_subcommands() {
        let Some((id, values)) = found(one) else {
            continue;
        };
        command = command.mut_subcommand(one.get_name(), |one| relax(one, &id));
        has_value = Some(values);
    }
    Some((command, has_value?))
}
