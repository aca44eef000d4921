//! What is made of the command line for others to read: completions and manual pages.

use std::io;

use clap::Command;
use clap_complete::shells;
use clap_mangen::Man;

use super::{ENVIRONMENT, EXAMPLES, Shell};
use crate::exit;

/// Writes completions of the command line.
pub fn completions(shell: Shell, out: &mut dyn io::Write) {
    let mut command = super::command();
    let name = "landfall";
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, name, out),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, name, out),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, name, out),
    }
}

/// Returns the manual pages with their file names, that of landfall itself first.
pub fn manual() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = super::command();
    command.build();
    let all = std::iter::once(&command).chain(command.get_subcommands());
    all.map(page).collect()
}

fn page(command: &Command) -> io::Result<(String, Vec<u8>)> {
    let whole = command.get_name() == "landfall";
    let man = Man::new(command.clone().override_usage(usage(command))).manual("Landfall");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if whole {
        man.render_subcommands_section(&mut page)?;
    }
    if takes_a_machine(command) {
        for text in [ENVIRONMENT, &exit::table(), EXAMPLES] {
            page.extend(verbatim(text).into_bytes());
        }
    }
    if whole {
        man.render_version_section(&mut page)?;
    }
    Ok((man.get_filename(), page))
}

/// Returns the forms of a command without naming every option, which fills a screen.
fn usage(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut named = command.get_arguments().filter(|arg| !arg.is_positional());
    let options = named.next().map(|_| " [OPTIONS]");
    let words = command.get_positionals().filter(|arg| !arg.is_hide_set());
    let words: String = words.map(|arg| format!(" {arg}")).collect();
    let plain = format!("{name}{}{words}", options.unwrap_or_default());
    match command.has_subcommands() {
        true => format!("{plain}\n{name} <COMMAND>"),
        false => plain,
    }
}

fn takes_a_machine(command: &Command) -> bool {
    command.get_arguments().any(|arg| arg.get_id() == "host")
}

/// Returns a section of lines that are kept as they are; the first line is its title.
fn verbatim(text: &str) -> String {
    let (title, lines) = text.split_once(":\n").unwrap_or((text, ""));
    let mut section = format!(".SH {}\n.nf\n", title.to_uppercase());
    for line in lines.lines() {
        let line = line.replace('\\', "\\\\").replace('-', "\\-");
        // a dot or a quote at the beginning would be a request to roff
        section += &format!("\\&{line}\n");
    }
    section + ".fi\n"
}
