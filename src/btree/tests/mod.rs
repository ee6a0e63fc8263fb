//! Trees that are changed, held to models that know nothing of nodes.

mod cutting;
mod forest;
mod histories;
mod hostile;
mod shapes;
mod sharing;
