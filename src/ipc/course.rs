//! What a subscriber may be told next: the events that follow its snapshot, and no more messages than
//! it has given credit for. A helper that tells anything else is broken.

/// Of one subscription, on one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    /// So many messages may still come.
    credit: u64,
    /// The number of the last event that it knows of; `None` before a snapshot.
    last: Option<u64>,
}

impl Course {
    pub(crate) fn new(credit: u32) -> Self {
        Self { credit: credit.into(), last: None }
    }

    /// So many more may come.
    pub(crate) fn grant(&mut self, messages: u32) {
        self.credit = self.credit.saturating_add(messages.into());
    }

    /// The error says which rule is broken.
    pub(crate) fn snapshot(&mut self, sequence: u64) -> Result<(), String> {
        self.last = Some(sequence);
        self.spend()
    }

    pub(crate) fn event(&mut self, sequence: u64) -> Result<(), String> {
        let last = self.last.replace(sequence).ok_or_else(|| format!("event {sequence} comes before a snapshot"))?;
        if last.checked_add(1) != Some(sequence) {
            return Err(format!("event {sequence} comes after {last}, with a gap that it does not tell of"));
        }
        self.spend()
    }

    /// Events were left out: a snapshot comes next.
    pub(crate) fn resync(&mut self) {
        self.last = None;
    }

    fn spend(&mut self) -> Result<(), String> {
        let more = "it tells more than it has credit for";
        self.credit = self.credit.checked_sub(1).ok_or(more)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_and_more_than_there_is_credit_for_are_broken_rules() {
        type Told = fn(&mut Course) -> Result<(), String>;
        let (snapshot, event): (Told, Told) = (|course| course.snapshot(4), |course| course.event(5));
        let resync: Told = |course| {
            course.resync();
            Ok(())
        };
        let grant: Told = |course| {
            course.grant(2);
            Ok(())
        };
        let table: [(&[Told], Option<&str>); 10] = [
            (&[snapshot, event], None),
            (&[snapshot, snapshot, event], None),
            (&[snapshot, resync, snapshot, event], None),
            (&[snapshot, event, |course| course.event(6), grant, |course| course.event(7)], None),
            (&[event], Some("before a snapshot")),
            (&[snapshot, event, event], Some("event 5 comes after 5")),
            (&[snapshot, |course| course.event(7)], Some("event 7 comes after 4")),
            (&[snapshot, resync, event], Some("before a snapshot")),
            (&[snapshot, event, |course| course.event(6), |course| course.event(7)], Some("credit")),
            (&[|course| course.snapshot(u64::MAX), |course| course.event(0)], Some("event 0 comes after")),
        ];
        for (number, (told, wrong)) in table.into_iter().enumerate() {
            let mut course = Course::new(3);
            let outcome = told.iter().try_for_each(|told| told(&mut course));
            assert_eq!(outcome.is_err(), wrong.is_some(), "{number}: {outcome:?}");
            assert!(outcome.err().is_none_or(|why| why.contains(wrong.unwrap_or_default())), "{number}");
        }
    }
}
