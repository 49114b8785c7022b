package checking

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Producer is a client's producer that has its transactional id, whoever had it before.
type Producer interface {
	Begin() error
	// Send waits until the records are in the log.
	Send(values ...string) error
	// Offsets adds a position in the topic's only partition to the transaction.
	Offsets(position int64) error
	Commit() error
	Abort() error
}

// Transactional is what a client does for the checks of transactions.
type Transactional struct {
	Topic    string
	Producer func(transactionalID string, timeout time.Duration) (Producer, error)
	// Committed reads so many committed records from the beginning.
	Committed func(count int) ([]string, error)
	// Position is what the group has committed.
	Position func() (int64, error)
	// Busy is what a client says that leaves it to its user to wait until what the one before had open is aborted.
	Busy error
	// Fenced are the errors of which a producer is told one whose transactional id has been taken over.
	Fenced []error
}

func values(word string, from, to int) []string {
	var values []string
	for i := from; i < to; i++ {
		values = append(values, fmt.Sprintf("%s-%d", word, i))
	}
	return values
}

func inOrder(steps ...func() error) error {
	for n, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", n+1, err)
		}
	}
	return nil
}

func (t Transactional) begin(p Producer, word string, from, to int) func() error {
	return func() error { return inOrder(p.Begin, func() error { return p.Send(values(word, from, to)...) }) }
}

// ReadCommitted wants the values that are to be there, and before them or between them none of those that are not.
func (t Transactional) ReadCommitted(count int) error {
	seen, err := t.Committed(count)
	if err != nil {
		return err
	}
	return Expect(strings.Join(values("committed", 0, count), " "), strings.Join(seen, " "), "committed values")
}

func (t Transactional) position(expected int64) error {
	var seen int64
	var err error
	// A position that is being decided is not told.
	settled := func() bool { seen, err = t.Position(); return err == nil && seen == expected }
	return Eventually(fmt.Sprintf("the group is at %d", expected), settled, func() any { return fmt.Sprint(seen, err) })
}

func (t Transactional) producer(id string, timeout time.Duration) (p Producer, err error) {
	settled := func() bool { p, err = t.Producer(id, timeout); return !errors.Is(err, t.Busy) }
	if late := Eventually(id+" is taken over", settled, func() any { return err }); late != nil {
		return nil, late
	}
	return p, err
}

func (t Transactional) commitAndAbort() error {
	p, err := t.producer(t.Topic, time.Minute)
	if err != nil {
		return err
	}
	offsets := func(position int64) func() error { return func() error { return p.Offsets(position) } }
	if err := inOrder(
		t.begin(p, "committed", 0, 10), offsets(5), p.Commit,
		t.begin(p, "aborted", 0, 5), offsets(9), p.Abort,
		t.begin(p, "committed", 10, 20), p.Commit,
	); err != nil {
		return err
	}
	if err := t.position(5); err != nil {
		return err
	}
	return t.ReadCommitted(20)
}

func (t Transactional) fence() error {
	first, err := t.producer(t.Topic, time.Minute)
	if err != nil {
		return err
	}
	if err := t.begin(first, "open", 0, 3)(); err != nil {
		return err
	}
	second, err := t.producer(t.Topic, time.Minute)
	if err != nil {
		return err
	}
	if err := t.begin(second, "committed", 20, 25)(); err != nil {
		return err
	}
	refused := first.Commit()
	isFenced := false
	for _, fenced := range t.Fenced {
		isFenced = isFenced || errors.Is(refused, fenced)
	}
	if !isFenced {
		return fmt.Errorf("a zombie commits and is told: %v", refused)
	}
	if err := second.Commit(); err != nil {
		return err
	}
	return t.ReadCommitted(25)
}

func (t Transactional) fallSilent() error {
	silent, err := t.producer(t.Topic+"-silent", 2*time.Second)
	if err != nil {
		return err
	}
	if err := t.begin(silent, "silent", 0, 3)(); err != nil {
		return err
	}
	other, err := t.producer(t.Topic, time.Minute)
	if err != nil {
		return err
	}
	if err := inOrder(t.begin(other, "committed", 25, 30), other.Commit); err != nil {
		return err
	}
	return t.ReadCommitted(30)
}

// CheckTransactions is told the same of every client.
func (t Transactional) CheckTransactions() {
	Check("transactions, committed and aborted, with offsets", t.commitAndAbort)
	Check("a zombie is fenced out of its transaction", t.fence)
	Check("a transaction that is left open is aborted", t.fallSilent)
}
