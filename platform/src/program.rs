//! The programs of an operator's commands: where they are, and why one cannot be run. The system
//! itself only says "No such file or directory", of a missing interpreter, too.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

/// How much of a script's first line the system reads (`BINPRM_BUF_SIZE`), in bytes.
const FIRST_LINE_BYTES: u64 = 256;

/// Returns the file of a command, as the system finds it.
///
/// # Errors
///
/// If there is none: a sentence that names the command and says what would be right.
pub fn find(program: &str) -> Result<PathBuf, String> {
    let found = if program.contains('/') {
        Some(PathBuf::from(program)).filter(|file| is_program(file))
    } else {
        in_path(program)
    };
    found.ok_or_else(|| format!("{program:?} is not a program that can be run: {}", why_not(program)))
}

fn is_program(file: &Path) -> bool {
    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|_| !program.is_empty())
        .map(|folder| folder.join(OsStr::new(program)))
        .find(|file| is_program(file))
}

fn why_not(program: &str) -> String {
    let file = Path::new(program);
    if program.is_empty() {
        return "its name is empty".to_owned();
    }
    if program.starts_with('~') {
        return "`~` has no meaning here; write the whole path".to_owned();
    }
    if file.is_dir() {
        return "it is a folder".to_owned();
    }
    if file.is_file() {
        return if !program.contains('/') {
            format!("it is not in the PATH; for the file in this folder, write \"./{program}\"")
        } else {
            format!("it is not executable; `chmod +x {program}`, or begin the command with its interpreter")
        };
    }
    let first = program.split_whitespace().next().unwrap_or_default();
    if first != program && find(first).is_ok() {
        return format!("the program and each argument are strings of their own: [{first:?}, ...]");
    }
    if !program.contains('/') {
        return "it is not in the PATH".to_owned();
    }
    match std::env::current_dir() {
        Ok(folder) if file.is_relative() => format!("there is no such file in {}", folder.display()),
        _ => "there is no such file".to_owned(),
    }
}

/// Says why a file that is there cannot be run, as far as its first line shows it.
///
/// # Errors
///
/// If the first line names an interpreter that is not there, with what would be right.
pub fn check_first_line(file: &Path) -> Result<(), String> {
    let mut begin = Vec::new();
    let read = File::open(file).and_then(|file| file.take(FIRST_LINE_BYTES).read_to_end(&mut begin));
    // A program that may be run need not be readable.
    if read.is_err() {
        return Ok(());
    }
    let shown = file.display();
    if begin.starts_with(b"\xef\xbb\xbf#!") {
        return Err(format!("{shown} begins with a byte order mark, before its `#!`; save it without"));
    }
    let Some(line) = begin.strip_prefix(b"#!") else { return Ok(()) };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    if line.ends_with('\r') {
        return Err(format!(
            "{shown} has the line ends of Windows, which the system takes for a part of the \
            interpreter's name; convert it, as `dos2unix` does"
        ));
    }
    match line.split_whitespace().next() {
        Some(interpreter) if !Path::new(interpreter).exists() => {
            Err(format!("the first line of {shown} names the interpreter {interpreter}, which is not there"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_command_that_cannot_be_run_is_refused_with_what_would_be_right() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("a script.sh");
        std::fs::write(&plain, "#!/bin/sh\n").unwrap();
        let plain = plain.to_str().unwrap();
        for (program, part) in [
            ("", "empty"),
            ("~/classify.sh", "the whole path"),
            (folder.path().to_str().unwrap(), "a folder"),
            (plain, "chmod +x"),
            ("/no/such/file", "there is no such file"),
            ("no/such/file", "there is no such file in /"),
            ("no-such-program", "not in the PATH"),
            ("Cargo.toml", "\"./Cargo.toml\""),
            ("sh -c true", "[\"sh\", ...]"),
            ("/bin/sh -c true", "[\"/bin/sh\", ...]"),
        ] {
            let why = find(program).unwrap_err();
            assert!(why.contains(part) && why.contains(&format!("{program:?}")), "{program}: {why}");
        }
        std::fs::set_permissions(plain, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(plain).unwrap(), Path::new(plain));
        assert!(find("sh").unwrap().ends_with("sh"));
    }

    #[test]
    fn a_first_line_that_the_system_cannot_follow_is_refused_and_any_other_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let check = |text: &[u8]| {
            let file = folder.path().join("classify");
            std::fs::write(&file, text).unwrap();
            check_first_line(&file)
        };
        for good in [
            "#!/bin/sh\n".as_bytes(),
            b"#! /bin/sh -e\n",
            b"#!/usr/bin/env python3\nprint()\r\n",
            b"\x7fELF\r\n",
            b"echo",
            b"",
            b"#!",
        ] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for (bad, part) in [
            ("#!/bin/sh\r\necho\r\n".as_bytes(), "dos2unix"),
            (b"#!/usr/bin/env python3\r\n", "dos2unix"),
            (b"#!/no/such/interpreter -x\n", "the interpreter /no/such/interpreter, which"),
            (b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
        ] {
            assert!(check(bad).is_err_and(|why| why.contains(part)), "{bad:?}");
        }
        assert_eq!(check_first_line(Path::new("/no/such/file")), Ok(()));
    }
}
