//! Stands in for `routerctl lab-agent` where only this crate is built: tests of the networks alone.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["lab-agent", "serve", "--listen", at] => match at.parse() {
            Ok(at) => lab::agent::serve(at).await.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
            Err(_) => ExitCode::from(2),
        },
        ["lab-agent", "exchange", "--to", to, "--limit-ms", limit] => {
            let (Ok(to), Ok(limit)) = (to.parse(), limit.parse()) else { return ExitCode::from(2) };
            match lab::agent::exchange(to, Duration::from_millis(limit)).await {
                Ok(done) => {
                    let line = serde_json::to_string(&done).unwrap_or_default();
                    let _ = writeln!(std::io::stdout(), "{line}");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    let _ = writeln!(std::io::stderr(), "{error}");
                    ExitCode::FAILURE
                }
            }
        }
        _ => ExitCode::from(2),
    }
}
