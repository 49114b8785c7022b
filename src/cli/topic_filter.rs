//! Which topics a regular expression on the command line means.

use crate::client::pattern::Pattern;
use crate::model::internal_topics::is_internal_topic;

/// A regular expression or comma list of topic names, as the tools take them.
/// Source: kafka 3.9.1 server-common/src/main/java/org/apache/kafka/server/util/TopicFilter.java.
#[derive(Clone, Debug)]
pub(crate) struct TopicFilter {
    pattern: Pattern,
}

impl TopicFilter {
    pub(crate) fn new(text: &str) -> Result<TopicFilter, String> {
        let alternatives = text.trim().replace(',', "|").replace(' ', "");
        let bare = alternatives.trim_matches(['"', '\'']);
        match Pattern::whole(bare) {
            Ok(pattern) => Ok(TopicFilter { pattern }),
            Err(_) => Err(format!("{bare} is an invalid regex.")),
        }
    }

    pub(crate) fn allows(&self, topic: &str, excludes_internal: bool) -> bool {
        self.pattern.is_match(topic) && !(excludes_internal && is_internal_topic(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_regexes_and_lists_match_whole_names() {
        let filter = |text| TopicFilter::new(text).unwrap();
        assert!(filter("a.*").allows("abc", false) && !filter("a").allows("abc", false));
        assert!(filter("a,b").allows("b", false) && filter("\"a|b\"").allows("a", false));
        assert!(filter(".*").allows("__consumer_offsets", false) && !filter(".*").allows("__consumer_offsets", true));
        assert!(filter("^(?!__).*").allows("a", false) && !filter("^(?!__).*").allows("__consumer_offsets", false));
        assert!(TopicFilter::new("*a").is_err());
    }
}
