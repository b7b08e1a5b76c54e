//! Work that is done at the same time and handed over in its order, so that nothing depends on how many threads there are.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread;

/// Does `work` on all items, on so many at once, and hands what comes of them to `keep`, in the order of the items.
///
/// Errors: the first in that order. Items behind it may have been worked on; none of them is kept.
pub fn in_order<I, T: Send, E: Send>(
    items: I,
    at_once: usize,
    work: impl Fn(I::Item) -> Result<T, E> + Sync,
    mut keep: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E>
where
    I: IntoIterator,
    I::IntoIter: Send,
{
    let mut items = items.into_iter();
    if at_once <= 1 {
        return items.try_for_each(|item| keep(work(item)?));
    }
    let items = Mutex::new(items.enumerate());
    thread::scope(|scope| {
        let (to, from) = sync_channel(at_once);
        for _ in 0..at_once {
            let (to, items, work) = (to.clone(), &items, &work);
            scope.spawn(move || {
                // Nobody panics while holding it.
                let next = || items.lock().ok().and_then(|mut items| items.next());
                while let Some((number, item)) = next() {
                    // A receiver that is gone needs no more.
                    if to.send((number, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(to);
        let mut early = BTreeMap::new();
        let mut due = 0;
        for (number, done) in from {
            early.insert(number, done);
            while let Some(done) = early.remove(&due) {
                keep(done?)?;
                due += 1;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::error::Error;

    /// The later, the sooner done.
    fn slow_first(number: usize) -> usize {
        thread::sleep(Duration::from_millis(20u64.saturating_sub(2 * number as u64)));
        number * number
    }

    #[test]
    fn order_is_that_of_the_items() {
        for at_once in [0, 1, 2, 7] {
            let mut kept = Vec::new();
            in_order(
                0..12,
                at_once,
                |n| Ok::<_, Error>(slow_first(n)),
                |n| {
                    kept.push(n);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(kept, (0..12).map(|n| n * n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn work_is_done_at_the_same_time() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |_| -> Result<(), Error> {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(20));
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        in_order(0..9, 3, work, Ok).unwrap();
        assert_eq!(most.into_inner(), 3);
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        for at_once in [1, 3] {
            let mut kept = Vec::new();
            let work = |n: usize| match slow_first(n) {
                16 | 36 => Err(Error::Usage(n.to_string())),
                n => Ok(n),
            };
            let result = in_order(0.., at_once, work, |n| {
                kept.push(n);
                Ok(())
            });
            assert!(matches!(result, Err(Error::Usage(n)) if n == "4"));
            assert_eq!(kept, [0, 1, 4, 9]);
            let refused =
                in_order(
                    0..,
                    at_once,
                    Ok,
                    |n: usize| {
                        if n == 3 { Err(Error::Usage("full".into())) } else { Ok(()) }
                    },
                );
            assert!(matches!(refused, Err(Error::Usage(_))));
        }
    }
}
