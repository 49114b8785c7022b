// What franz-go does with a broker. franz before|after BOOTSTRAP PREFIX
package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	. "odradek.tests/clients/checking"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var compressions = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func client(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(Bootstrap...), kgo.ClientID(Prefix), kgo.AllowAutoTopicCreation(),
		kgo.RecordPartitioner(kgo.ManualPartitioner())}, options...)...)
}

func send(topic, word string, count int, acknowledged bool, options ...kgo.Opt) error {
	c, err := client(options...)
	if err != nil {
		return err
	}
	defer c.Close()
	var records []*kgo.Record
	for i := range count {
		records = append(records, &kgo.Record{Topic: topic, Key: Key(i), Value: Value(word, i), Timestamp: Timestamp(i),
			Headers: []kgo.RecordHeader{{Key: "number", Value: []byte(strconv.Itoa(i))}, {Key: "nothing"}}})
	}
	// RecordDeliveryTimeout would count from the records' own timestamps, which are years old.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for i, result := range c.ProduceSync(ctx, records...) {
		if result.Err != nil {
			return result.Err
		}
		if acknowledged {
			if err := Expect(i, result.Record.Offset, "offset"); err != nil {
				return err
			}
		}
	}
	return nil
}

func readFrom(topic string, offset kgo.Offset, count int, options ...kgo.Opt) ([]*kgo.Record, error) {
	c, err := client(append([]kgo.Opt{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: offset}}), kgo.FetchMaxWait(500 * time.Millisecond)}, options...)...)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var records []*kgo.Record
	for len(records) < count {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("after %d records of %d: %w", len(records), count, err)
		}
		records = append(records, fetches.Records()...)
	}
	return records, nil
}

func readBack(topic, word string, count int) error {
	records, err := readFrom(topic, kgo.NewOffset().AtStart(), count)
	if err != nil {
		return err
	}
	for i, r := range records {
		expected := fmt.Sprintf("%d %q %q %d [{number %q} {nothing %q}] %t", i, Key(i), Value(word, i), Timestamp(i).UnixMilli(), strconv.Itoa(i), "", Value(word, i) == nil)
		seen := fmt.Sprintf("%d %q %q %d [{%s %q} {%s %q}] %t", r.Offset, r.Key, r.Value, r.Timestamp.UnixMilli(), r.Headers[0].Key, r.Headers[0].Value, r.Headers[1].Key, r.Headers[1].Value, r.Value == nil)
		if err := Expect(expected, seen, "record"); err != nil {
			return err
		}
	}
	return Expect(count, len(records), "records")
}

func codec(name string) error {
	if err := send(Prefix+"-"+name, name, Records, true, kgo.ProducerBatchCompression(compressions[name])); err != nil {
		return err
	}
	return readBack(Prefix+"-"+name, name, Records)
}

func acks(name string, setting kgo.Acks) error {
	topic := Prefix + "-acks-" + name
	if err := send(topic, "acks", Records, name != "0", kgo.RequiredAcks(setting), kgo.DisableIdempotentWrite()); err != nil {
		return err
	}
	return readBack(topic, "acks", Records)
}

func idempotent() error {
	if err := send(Prefix+"-idempotent", "idempotent", 300, true, kgo.ProducerBatchMaxBytes(1024), kgo.ProducerLinger(0)); err != nil {
		return err
	}
	return readBack(Prefix+"-idempotent", "idempotent", 300)
}

func seekByTime() error {
	c, err := client()
	if err != nil {
		return err
	}
	defer c.Close()
	// Past the last timestamp kadm itself answers with the end of the partition.
	for _, one := range [][2]int64{{-1, 0}, {7000, 7}, {7001, 8}, {(Records-1)*1000 + 1, Records}} {
		found, err := kadm.NewClient(c).ListOffsetsAfterMilli(context.Background(), FirstTimestamp+one[0], Prefix+"-none")
		if err != nil {
			return err
		}
		offset, _ := found.Lookup(Prefix+"-none", 0)
		if offset.Err != nil {
			return offset.Err
		}
		if err := Expect(one[1], offset.Offset, fmt.Sprintf("offset for the first timestamp plus %d", one[0])); err != nil {
			return err
		}
	}
	records, err := readFrom(Prefix+"-none", kgo.NewOffset().AfterMilli(FirstTimestamp+7001), 1)
	if err != nil {
		return err
	}
	return Expect(string(Value("none", 8)), string(records[0].Value), "first record behind the time")
}

// A member of the group: remembers its assignment and what it got.
type member struct {
	*kgo.Client
	mu       sync.Mutex
	assigned map[int32]bool
	received []*kgo.Record
	err      error
}

func join() (*member, error) {
	m := &member{assigned: map[int32]bool{}}
	change := func(owned bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, p := range partitions[Prefix+"-group"] {
				if owned {
					m.assigned[p] = true
				} else {
					delete(m.assigned, p)
				}
			}
		}
	}
	c, err := client(kgo.ConsumerGroup(Prefix), kgo.ConsumeTopics(Prefix+"-group"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(10*time.Second), kgo.HeartbeatInterval(500*time.Millisecond), kgo.FetchMaxWait(200*time.Millisecond),
		kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false)))
	if err != nil {
		return nil, err
	}
	m.Client = c
	go func() {
		for {
			fetches := c.PollFetches(context.Background())
			if fetches.IsClientClosed() {
				return
			}
			m.mu.Lock()
			m.received = append(m.received, fetches.Records()...)
			if err := fetches.Err(); err != nil {
				m.err = err
			}
			m.mu.Unlock()
		}
	}()
	return m, nil
}

func (m *member) counts() (int, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.assigned), len(m.received)
}

func sendToGroup(from, to int) error {
	c, err := client()
	if err != nil {
		return err
	}
	defer c.Close()
	var records []*kgo.Record
	for i := from; i < to; i++ {
		records = append(records, &kgo.Record{Topic: Prefix + "-group", Partition: int32(i % 4), Value: fmt.Appendf(nil, "group-%d", i)})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return c.ProduceSync(ctx, records...).FirstErr()
}

func group() error {
	first, err := join()
	if err != nil {
		return err
	}
	defer first.Close()
	assigned := func(m *member) int { n, _ := m.counts(); return n }
	received := func(m *member) int { _, n := m.counts(); return n }
	if err := Eventually("the only member has all four partitions", func() bool { return assigned(first) == 4 }, func() any { return assigned(first) }); err != nil {
		return err
	}
	second, err := join()
	if err != nil {
		return err
	}
	defer second.Close()
	if err := Eventually("both members have two partitions each", func() bool { return assigned(first) == 2 && assigned(second) == 2 },
		func() any { return fmt.Sprint(assigned(first), assigned(second)) }); err != nil {
		return err
	}
	if err := sendToGroup(0, 200); err != nil {
		return err
	}
	if err := Eventually("200 records", func() bool { return received(first)+received(second) >= 200 }, func() any { return fmt.Sprint(received(first), received(second), first.err, second.err) }); err != nil {
		return err
	}
	values := map[string]bool{}
	for _, m := range []*member{first, second} {
		for _, r := range m.received {
			values[string(r.Value)] = true
		}
		if err := Expect(100, received(m), "records of a member"); err != nil {
			return err
		}
		if err := m.CommitUncommittedOffsets(context.Background()); err != nil {
			return err
		}
	}
	if err := Expect(200, len(values), "different records"); err != nil {
		return err
	}
	second.Close()
	if err := Eventually("the first member has all four partitions again", func() bool { return assigned(first) == 4 }, func() any { return assigned(first) }); err != nil {
		return err
	}
	first.Close()
	return sendToGroup(200, 240)
}

func resume() error {
	m, err := join()
	if err != nil {
		return err
	}
	defer m.Close()
	if err := Eventually("the 40 records behind the committed offsets", func() bool { _, n := m.counts(); return n >= 40 }, func() any { _, n := m.counts(); return fmt.Sprint(n, m.err) }); err != nil {
		return err
	}
	next := map[int32]int64{0: 50, 1: 50, 2: 50, 3: 50}
	for _, r := range m.received {
		if err := Expect(fmt.Sprintf("%d group-%d", next[r.Partition], r.Offset*4+int64(r.Partition)), fmt.Sprintf("%d %s", r.Offset, r.Value), "offset and value"); err != nil {
			return err
		}
		next[r.Partition]++
	}
	return Expect(40, len(m.received), "records")
}

// A producer in transactions.
type producer struct {
	*kgo.Client
	id string
}

func (p producer) Begin() error { return p.BeginTransaction() }

func (p producer) Send(values ...string) error {
	var records []*kgo.Record
	for _, value := range values {
		records = append(records, &kgo.Record{Topic: Prefix + "-transactions", Value: []byte(value)})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return p.ProduceSync(ctx, records...).FirstErr()
}

// Its own way is a session that is a member too; this is what that sends.
func (p producer) Offsets(position int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	id, epoch, err := p.ProducerID(ctx)
	if err != nil {
		return err
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = p.id, id, epoch, Prefix+"-transactions"
	added, err := add.RequestWith(ctx, p.Client)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(added.ErrorCode); err != nil {
		return err
	}
	partition := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	partition.Offset = position
	topic := kmsg.NewTxnOffsetCommitRequestTopic()
	topic.Topic, topic.Partitions = Prefix+"-transactions", []kmsg.TxnOffsetCommitRequestTopicPartition{partition}
	commit := kmsg.NewPtrTxnOffsetCommitRequest()
	commit.TransactionalID, commit.ProducerID, commit.ProducerEpoch, commit.Group = p.id, id, epoch, Prefix+"-transactions"
	commit.Topics = []kmsg.TxnOffsetCommitRequestTopic{topic}
	committed, err := commit.RequestWith(ctx, p.Client)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(committed.Topics[0].Partitions[0].ErrorCode)
}

func (p producer) end(commit kgo.TransactionEndTry) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return p.EndTransaction(ctx, commit)
}
func (p producer) Commit() error { return p.end(kgo.TryCommit) }
func (p producer) Abort() error  { return p.end(kgo.TryAbort) }

var transactional = Transactional{
	Topic: Prefix + "-transactions",
	Producer: func(id string, timeout time.Duration) (Producer, error) {
		c, err := client(kgo.TransactionalID(id), kgo.TransactionTimeout(timeout))
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, _, err := c.ProducerID(ctx); err != nil {
			c.Close()
			return nil, err
		}
		return producer{c, id}, nil
	},
	Committed: func(count int) ([]string, error) {
		records, err := readFrom(Prefix+"-transactions", kgo.NewOffset().AtStart(), count, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		var values []string
		for _, r := range records {
			values = append(values, string(r.Value))
		}
		return values, err
	},
	Position: func() (int64, error) {
		c, err := client()
		if err != nil {
			return -1, err
		}
		defer c.Close()
		found, err := kadm.NewClient(c).FetchOffsets(context.Background(), Prefix+"-transactions")
		if err != nil {
			return -1, err
		}
		offset, _ := found.Lookup(Prefix+"-transactions", 0)
		return offset.At, offset.Err
	},
	Busy:   kerr.ConcurrentTransactions,
	Fenced: []error{kerr.ProducerFenced, kerr.InvalidProducerEpoch},
}

func main() {
	if When == "before" {
		for _, name := range Codecs {
			Check("produce and read back, "+name, func() error { return codec(name) })
		}
		Check("acks=0", func() error { return acks("0", kgo.NoAck()) })
		Check("acks=1", func() error { return acks("1", kgo.LeaderAck()) })
		Check("acks=all", func() error { return acks("all", kgo.AllISRAcks()) })
		Check("idempotent producer", idempotent)
		Check("seek by time", seekByTime)
		transactional.CheckTransactions()
		Check("group of two members, rebalance, commit", group)
	} else {
		for _, name := range Codecs {
			Check("read again after the restart, "+name, func() error { return readBack(Prefix+"-"+name, name, Records) })
		}
		Check("read committed records again", func() error { return transactional.ReadCommitted(30) })
		Check("resume at the committed offsets", resume)
	}
	Finish()
}
