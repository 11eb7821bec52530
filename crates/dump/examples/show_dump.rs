//! What does the parser read from a file? Prints each dump, its events, facts and notes.

fn main() {
    for path in std::env::args().skip(1) {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{path}: {error}");
                std::process::exit(2);
            }
        };
        match softvirt_dump::parse(text) {
            Ok(dumps) => dumps.iter().for_each(|dump| println!("{path}: {dump:#x?}")),
            Err(error) => println!("{path}: {error}"),
        }
    }
}
