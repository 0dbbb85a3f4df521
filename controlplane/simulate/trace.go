package simulate

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/api"
)

// Trace is what was asked of functions.
type Trace struct {
	Functions []Function
	Calls     []Call        // in the order of At
	Length    time.Duration // how long was looked, at least until the last call
}

// Function is one of a trace.
type Function struct {
	Name   string
	Memory uint64 // bytes of one replica
}

// Call is one invocation.
type Call struct {
	Function int           // its place in Trace.Functions
	At       time.Duration // since the beginning
	Duration time.Duration // of the work itself
}

// DefaultMemory is a replica's where a trace does not say, in bytes.
const DefaultMemory = 128 << 20

// arrival is one line of a trace.
type arrival struct {
	Function string   `json:"function"`
	Time     float64  `json:"time"`     // seconds since the beginning
	Duration float64  `json:"duration"` // seconds
	Memory   *float64 `json:"memory"`   // MiB of a replica; nil or 0 is DefaultMemory. A function's largest counts
}

// Input is what a file held: a trace, or what a running platform has decided.
type Input struct {
	Trace     Trace
	Decisions []api.ScaleDecision // then Trace is empty
}

// Read reads a file: CSV with the columns function, time, duration and, if
// wanted, memory; the same as one JSON object a line; or decisions, as a list
// or as `faas describe -o json` prints them.
func Read(r io.Reader) (Input, error) {
	b := bufio.NewReader(r)
	first, err := firstByte(b)
	switch {
	case errors.Is(err, io.EOF):
		return Input{}, errors.New("the trace is empty")
	case err != nil:
		return Input{}, err
	case first == '[':
		var in Input
		if err := json.NewDecoder(b).Decode(&in.Decisions); err != nil {
			return in, fmt.Errorf("decisions: %w", err)
		}
		return in, nil
	case first == '{':
		return readObjects(b)
	}
	lines, err := readCSV(b)
	if err != nil {
		return Input{}, err
	}
	t, err := build(lines)
	return Input{Trace: t}, err
}

// firstByte looks at the first one that is not white space.
func firstByte(b *bufio.Reader) (byte, error) {
	if mark, _ := b.Peek(3); string(mark) == "\uFEFF" {
		_, _ = b.Discard(3) // what Windows puts before UTF-8
	}
	for {
		c, err := b.ReadByte()
		if err != nil {
			return 0, err
		}
		if !bytes.ContainsRune([]byte(" \t\r\n"), rune(c)) {
			return c, b.UnreadByte()
		}
	}
}

func readObjects(r io.Reader) (Input, error) {
	dec := json.NewDecoder(r)
	var lines []arrival
	for n := 1; ; n++ {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			t, err := build(lines)
			return Input{Trace: t}, err
		}
		if err != nil {
			return Input{}, fmt.Errorf("object %d: %w", n, err)
		}
		if n == 1 {
			var described struct {
				Decisions []api.ScaleDecision `json:"decisions"`
			}
			if json.Unmarshal(raw, &described) == nil && described.Decisions != nil {
				return Input{Decisions: described.Decisions}, nil
			}
		}
		var a arrival
		if err := json.Unmarshal(raw, &a); err != nil {
			return Input{}, fmt.Errorf("object %d: %w", n, err)
		}
		lines = append(lines, a)
	}
}

func readCSV(r io.Reader) ([]arrival, error) {
	t, err := newTable(r, "function", "time", "duration")
	if err != nil {
		return nil, err
	}
	var out []arrival
	for {
		err := t.next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		a := arrival{Function: t.text("function")}
		var errs [3]error
		a.Time, errs[0] = t.number("time")
		a.Duration, errs[1] = t.number("duration")
		if t.text("memory") != "" {
			a.Memory = new(float64)
			*a.Memory, errs[2] = t.number("memory")
		}
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
}

// most is the longest time in a trace, in seconds: ten years.
const most = 10 * 365 * 86400

// build puts lines into order.
func build(lines []arrival) (Trace, error) {
	var t Trace
	at := map[string]int{}
	for n, a := range lines {
		switch {
		case a.Function == "":
			return t, fmt.Errorf("call %d has no function", n+1)
		case !(a.Time >= 0 && a.Time <= most), !(a.Duration >= 0 && a.Duration <= most):
			return t, fmt.Errorf("call %d: time %v and duration %v must be seconds from 0 on", n+1, a.Time, a.Duration)
		case a.Memory != nil && !(*a.Memory >= 0 && *a.Memory <= 1<<30):
			return t, fmt.Errorf("call %d: memory %v must be MiB from 0 on", n+1, *a.Memory)
		}
		i, ok := at[a.Function]
		if !ok {
			i = len(t.Functions)
			at[a.Function] = i
			t.Functions = append(t.Functions, Function{Name: a.Function})
		}
		if a.Memory != nil {
			t.Functions[i].Memory = max(t.Functions[i].Memory, uint64(*a.Memory*(1<<20)))
		}
		c := Call{Function: i, At: seconds(a.Time), Duration: seconds(a.Duration)}
		t.Length = max(t.Length, c.At+c.Duration)
		t.Calls = append(t.Calls, c)
	}
	for i := range t.Functions {
		t.Functions[i].Memory = cmp.Or(t.Functions[i].Memory, DefaultMemory)
	}
	t.sort()
	if len(t.Calls) == 0 {
		return t, errors.New("the trace has no calls")
	}
	return t, nil
}

func (t *Trace) sort() {
	slices.SortStableFunc(t.Calls, func(a, b Call) int { return cmp.Compare(a.At, b.At) })
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// table reads a CSV file by the names of its columns.
type table struct {
	r       *csv.Reader
	columns map[string]int
	header  []string
	row     []string
	line    int
}

func newTable(r io.Reader, required ...string) (*table, error) {
	t := &table{r: csv.NewReader(r), columns: map[string]int{}}
	t.r.ReuseRecord = true
	header, err := t.r.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty")
	}
	if err != nil {
		return nil, err
	}
	t.header = slices.Clone(header)
	for i, name := range t.header {
		t.columns[name] = i
	}
	for _, name := range required {
		if _, ok := t.columns[name]; !ok {
			return nil, fmt.Errorf("there is no column %q", name)
		}
	}
	return t, nil
}

func (t *table) next() (err error) {
	t.row, err = t.r.Read()
	if err == nil {
		t.line, _ = t.r.FieldPos(0)
	}
	return err
}

func (t *table) text(column string) string {
	if i, ok := t.columns[column]; ok {
		return t.row[i]
	}
	return ""
}

func (t *table) number(column string) (float64, error) {
	v, err := strconv.ParseFloat(t.text(column), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("line %d: %s %q is not a number", t.line, column, t.text(column))
	}
	return v, nil
}
