//! redb, as it is by default, as one of the sessions that `sessions.py` drives.

#[path = "../../session.rs"]
mod session;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use session::{Engine, Outcome};

const FILE: &str = "redb";
const TREE: TableDefinition<'_, u64, u64> = TableDefinition::new("m");

#[derive(Default)]
struct Redb {
    database: Option<Database>,
}

impl Redb {
    fn database(&self) -> Outcome<&Database> {
        Ok(self.database.as_ref().ok_or("nothing is open")?)
    }
}

impl Engine for Redb {
    fn fresh(&mut self) -> Outcome<()> {
        self.database = None;
        if std::fs::exists(FILE)? {
            std::fs::remove_file(FILE)?;
        }
        self.database = Some(Database::create(FILE)?);
        self.insert(&[], 1)
    }

    fn reopen(&mut self) -> Outcome<()> {
        self.database = None;
        self.database = Some(Database::open(FILE)?);
        Ok(())
    }

    fn insert(&mut self, keys: &[u64], per_commit: usize) -> Outcome<()> {
        for batch in keys.chunks(per_commit) {
            let transaction = self.database()?.begin_write()?;
            let mut tree = transaction.open_table(TREE)?;
            for &key in batch {
                tree.insert(key, key.wrapping_mul(3))?;
            }
            drop(tree);
            transaction.commit()?;
        }
        Ok(())
    }

    fn lookup(&mut self, keys: &[u64]) -> Outcome<u64> {
        let tree = self.database()?.begin_read()?.open_table(TREE)?;
        let mut sum = 0_u64;
        for &key in keys {
            let found = tree.get(key)?.ok_or("a key is missing")?;
            sum = sum.wrapping_add(found.value());
        }
        Ok(sum)
    }

    fn scan(&mut self, visit: &mut dyn FnMut(u64, u64)) -> Outcome<()> {
        let tree = self.database()?.begin_read()?.open_table(TREE)?;
        for pair in tree.iter()? {
            let (key, value) = pair?;
            visit(key.value(), value.value());
        }
        Ok(())
    }
}

/// The version of redb that is linked, from the lock file.
fn version() -> &'static str {
    let mut lines = include_str!("../Cargo.lock").lines();
    lines
        .find(|line| *line == "name = \"redb\"")
        .and_then(|_| lines.next()?.split('"').nth(1))
        .unwrap_or_default()
}

fn main() -> Outcome<()> {
    session::serve(&mut Redb::default(), version())
}
