//! `tfgraft`: see `tfgraft --help`.

fn main() -> std::process::ExitCode {
    tfgraft::cli::run()
}
