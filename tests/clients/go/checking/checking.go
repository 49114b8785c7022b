// Package checking is what the Go checks share: the command line, one line a check, what is in a record.
package checking

import (
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	FirstTimestamp = int64(1_600_000_000_000)
	Records        = 30
)

var (
	When, Prefix = os.Args[1], os.Args[3]
	Bootstrap    = strings.Split(os.Args[2], ",")
	Codecs       = []string{"none", "gzip", "snappy", "lz4", "zstd"}
	failures     int
)

func Timestamp(i int) time.Time { return time.UnixMilli(FirstTimestamp + int64(i)*1000) }

// Key is nil for every seventh record: that is legal.
func Key(i int) []byte {
	if i%7 == 3 {
		return nil
	}
	return fmt.Appendf(nil, "key-%d", i)
}

// Value is nil for every eleventh record: that is legal too.
func Value(word string, i int) []byte {
	if i%11 == 5 {
		return nil
	}
	return fmt.Appendf(nil, "%s-%d-%s", word, i, strings.Repeat("padding ", 20))
}

func Check(name string, run func() error) {
	if err := run(); err != nil {
		failures++
		fmt.Printf("FAILED %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	fmt.Println("ok", name)
}

func Expect(expected, seen any, what string) error {
	if a, b := fmt.Sprintf("%v", expected), fmt.Sprintf("%v", seen); a != b {
		return fmt.Errorf("%s: expected %.300s, saw %.300s", what, a, b)
	}
	return nil
}

func Eventually(what string, probe func() bool, seen func() any) error {
	deadline := time.Now().Add(30 * time.Second)
	for !probe() {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within 30 s: %s; last seen: %v", what, seen())
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

func Finish() {
	if failures > 0 {
		os.Exit(1)
	}
}
