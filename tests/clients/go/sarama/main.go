// What sarama does with a broker. sarama before|after BOOTSTRAP PREFIX
package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	. "odradek.tests/clients/checking"

	"github.com/IBM/sarama"
)

var compressions = map[string]sarama.CompressionCodec{
	"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy, "lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
}

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.ClientID = Prefix
	c.Version = sarama.V2_8_0_0
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	// A leader that died has a successor after its session, which is longer than three times 100 ms.
	c.Producer.Retry.Max = 100
	c.Producer.Partitioner = sarama.NewManualPartitioner
	c.Consumer.Return.Errors = true
	c.Consumer.MaxWaitTime = 200 * time.Millisecond
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Consumer.Group.Session.Timeout = 10 * time.Second
	c.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	return c
}

func encoder(bytes []byte) sarama.Encoder {
	if bytes == nil {
		return nil
	}
	return sarama.ByteEncoder(bytes)
}

// So many records at once. The topic is created by the client's own metadata request, answered before it has a leader.
func send(topic, word string, count, atOnce int, acknowledged bool, c *sarama.Config) error {
	p, err := sarama.NewSyncProducer(Bootstrap, c)
	if err != nil {
		return err
	}
	defer p.Close()
	for i := 0; i < count; i += atOnce {
		var messages []*sarama.ProducerMessage
		for n := i; n < i+atOnce; n++ {
			messages = append(messages, &sarama.ProducerMessage{Topic: topic, Key: encoder(Key(n)), Value: encoder(Value(word, n)), Timestamp: Timestamp(n),
				Headers: []sarama.RecordHeader{{Key: []byte("number"), Value: []byte(strconv.Itoa(n))}}})
		}
		if err := p.SendMessages(messages); err != nil {
			if failed, ok := err.(sarama.ProducerErrors); ok {
				return fmt.Errorf("%w The first: %w", err, failed[0].Err)
			}
			return err
		}
		for n, m := range messages {
			if acknowledged {
				if err := Expect(i+n, m.Offset, "offset"); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func readFrom(topic string, offset int64, count int) ([]*sarama.ConsumerMessage, error) {
	return readAs(config(), topic, offset, count)
}

func readAs(c *sarama.Config, topic string, offset int64, count int) ([]*sarama.ConsumerMessage, error) {
	consumer, err := sarama.NewConsumer(Bootstrap, c)
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	partition, err := consumer.ConsumePartition(topic, 0, offset)
	if err != nil {
		return nil, err
	}
	defer partition.Close()
	var messages []*sarama.ConsumerMessage
	timeout := time.After(30 * time.Second)
	for len(messages) < count {
		select {
		case m := <-partition.Messages():
			messages = append(messages, m)
		case err := <-partition.Errors():
			return nil, err
		case <-timeout:
			return nil, fmt.Errorf("%d records of %d within 30 s", len(messages), count)
		}
	}
	return messages, nil
}

func readBack(topic, word string, count int) error {
	messages, err := readFrom(topic, sarama.OffsetOldest, count)
	if err != nil {
		return err
	}
	for i, m := range messages {
		expected := fmt.Sprintf("%d %q %q %d number=%d %t", i, Key(i), Value(word, i), Timestamp(i).UnixMilli(), i, Value(word, i) == nil)
		seen := fmt.Sprintf("%d %q %q %d %s=%s %t", m.Offset, m.Key, m.Value, m.Timestamp.UnixMilli(), m.Headers[0].Key, m.Headers[0].Value, m.Value == nil)
		if err := Expect(expected, seen, "record"); err != nil {
			return err
		}
	}
	return nil
}

func codec(name string) error {
	c := config()
	c.Producer.Compression = compressions[name]
	if err := send(Prefix+"-"+name, name, Records, 10, true, c); err != nil {
		return err
	}
	return readBack(Prefix+"-"+name, name, Records)
}

func acks(name string, setting sarama.RequiredAcks) error {
	c := config()
	c.Producer.RequiredAcks = setting
	if err := send(Prefix+"-acks-"+name, "acks", Records, 10, name != "0", c); err != nil {
		return err
	}
	return readBack(Prefix+"-acks-"+name, "acks", Records)
}

func idempotent() error {
	c := config()
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
	// One at a time: of several that have to be sent again sarama may send the later ones first, or finds that it would
	// ("message out of sequence added to a batch").
	if err := send(Prefix+"-idempotent", "idempotent", 300, 1, true, c); err != nil {
		return err
	}
	return readBack(Prefix+"-idempotent", "idempotent", 300)
}

func seekByTime() error {
	client, err := sarama.NewClient(Bootstrap, config())
	if err != nil {
		return err
	}
	defer client.Close()
	for _, one := range [][2]int64{{-1, 0}, {7000, 7}, {7001, 8}, {(Records-1)*1000 + 1, -1}} {
		offset, err := client.GetOffset(Prefix+"-none", 0, FirstTimestamp+one[0])
		if err != nil {
			return err
		}
		if err := Expect(one[1], offset, fmt.Sprintf("offset for the first timestamp plus %d", one[0])); err != nil {
			return err
		}
	}
	messages, err := readFrom(Prefix+"-none", 8, 1)
	if err != nil {
		return err
	}
	return Expect(string(Value("none", 8)), string(messages[0].Value), "first record behind the time")
}

// A member of the group: remembers its assignment and what it got, commits what it marked.
type member struct {
	sarama.ConsumerGroup
	mu       sync.Mutex
	session  sarama.ConsumerGroupSession
	assigned int
	received []*sarama.ConsumerMessage
	err      error
}

func (m *member) Setup(session sarama.ConsumerGroupSession) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session, m.assigned = session, len(session.Claims()[Prefix+"-group"])
	return nil
}
func (m *member) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (m *member) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		m.mu.Lock()
		m.received = append(m.received, message)
		m.mu.Unlock()
		session.MarkMessage(message, "")
	}
	return nil
}

func join() (*member, error) {
	g, err := sarama.NewConsumerGroup(Bootstrap, Prefix, config())
	if err != nil {
		return nil, err
	}
	m := &member{ConsumerGroup: g}
	go func() {
		for err := range g.Errors() {
			m.mu.Lock()
			m.err = err
			m.mu.Unlock()
		}
	}()
	go func() {
		for g.Consume(context.Background(), []string{Prefix + "-group"}, m) == nil {
		}
	}()
	return m, nil
}

func (m *member) counts() (int, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.assigned, len(m.received)
}

func sendToGroup(from, to int) error {
	p, err := sarama.NewSyncProducer(Bootstrap, config())
	if err != nil {
		return err
	}
	defer p.Close()
	var messages []*sarama.ProducerMessage
	for i := from; i < to; i++ {
		messages = append(messages, &sarama.ProducerMessage{Topic: Prefix + "-group", Partition: int32(i % 4), Value: sarama.StringEncoder(fmt.Sprintf("group-%d", i))})
	}
	return p.SendMessages(messages)
}

func group() error {
	first, err := join()
	if err != nil {
		return err
	}
	defer first.Close()
	assigned := func(m *member) int { n, _ := m.counts(); return n }
	received := func(m *member) int { _, n := m.counts(); return n }
	if err := Eventually("the only member has all four partitions", func() bool { return assigned(first) == 4 }, func() any { return fmt.Sprint(assigned(first), first.err) }); err != nil {
		return err
	}
	second, err := join()
	if err != nil {
		return err
	}
	defer second.Close()
	if err := Eventually("both members have two partitions each", func() bool { return assigned(first) == 2 && assigned(second) == 2 },
		func() any { return fmt.Sprint(assigned(first), assigned(second), first.err, second.err) }); err != nil {
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
		m.session.Commit()
	}
	if err := Expect(200, len(values), "different records"); err != nil {
		return err
	}
	if err := second.Close(); err != nil {
		return err
	}
	if err := Eventually("the first member has all four partitions again", func() bool { return assigned(first) == 4 }, func() any { return fmt.Sprint(assigned(first), first.err) }); err != nil {
		return err
	}
	if err := first.Close(); err != nil {
		return err
	}
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
type producer struct{ sarama.SyncProducer }

func (p producer) Begin() error { return p.BeginTxn() }

func (p producer) Send(values ...string) error {
	var messages []*sarama.ProducerMessage
	for _, value := range values {
		messages = append(messages, &sarama.ProducerMessage{Topic: Prefix + "-transactions", Value: sarama.StringEncoder(value)})
	}
	return p.SendMessages(messages)
}

func (p producer) Offsets(position int64) error {
	offset := &sarama.PartitionOffsetMetadata{Partition: 0, Offset: position}
	return p.AddOffsetsToTxn(map[string][]*sarama.PartitionOffsetMetadata{Prefix + "-transactions": {offset}}, Prefix+"-transactions")
}
func (p producer) Commit() error { return p.CommitTxn() }
func (p producer) Abort() error  { return p.AbortTxn() }

var transactional = Transactional{
	Topic: Prefix + "-transactions",
	Producer: func(id string, timeout time.Duration) (Producer, error) {
		c := config()
		c.Producer.Idempotent = true
		c.Net.MaxOpenRequests = 1
		c.Producer.Transaction.ID = id
		c.Producer.Transaction.Timeout = timeout
		p, err := sarama.NewSyncProducer(Bootstrap, c)
		return producer{p}, err
	},
	Committed: func(count int) ([]string, error) {
		c := config()
		c.Consumer.IsolationLevel = sarama.ReadCommitted
		messages, err := readAs(c, Prefix+"-transactions", sarama.OffsetOldest, count)
		var values []string
		for _, m := range messages {
			values = append(values, string(m.Value))
		}
		return values, err
	},
	Position: func() (int64, error) {
		admin, err := sarama.NewClusterAdmin(Bootstrap, config())
		if err != nil {
			return -1, err
		}
		defer admin.Close()
		found, err := admin.ListConsumerGroupOffsets(Prefix+"-transactions", map[string][]int32{Prefix + "-transactions": {0}})
		if err != nil {
			return -1, err
		}
		block := found.GetBlock(Prefix+"-transactions", 0)
		if block == nil {
			return -1, fmt.Errorf("%+v does not mention it", found)
		}
		if block.Err != sarama.ErrNoError {
			return -1, block.Err
		}
		return block.Offset, nil
	},
	Busy:   sarama.ErrConcurrentTransactions,
	Fenced: []error{sarama.ErrProducerFenced, sarama.ErrInvalidProducerEpoch},
}

func main() {
	if When == "before" {
		for _, name := range Codecs {
			Check("produce and read back, "+name, func() error { return codec(name) })
		}
		Check("acks=0", func() error { return acks("0", sarama.NoResponse) })
		Check("acks=1", func() error { return acks("1", sarama.WaitForLocal) })
		Check("acks=all", func() error { return acks("all", sarama.WaitForAll) })
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
