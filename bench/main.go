// Command bench measures the platform against baselines in the same run:
// `make bench`. Every figure is a median over rounds in which ours and the
// baseline take turns, and counts only when no call failed. It prints a table
// and writes bench/latest.json. `-compare OLD NEW` compares two such files.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == relayVerb {
		os.Exit(exit(relay(os.Args[2])))
	}
	os.Exit(run())
}

func run() int {
	only := flag.String("run", "", "measure only the rows whose names match this `regexp`")
	rounds := flag.Int("rounds", 5, "`times` that ours and the baseline take turns")
	out := flag.String("o", "bench/latest.json", "`file` that the rows are written to")
	compare := flag.Bool("compare", false, "print how the ratios of two files, old and new, differ")
	traceDir := flag.String("trace", cmp.Or(os.Getenv("BENCH_TRACE"), "../shared/data/azure_100"), "`folder` of the Azure trace sample")
	minutes := flag.Int("trace-minutes", 6, "`minutes` of the trace that are replayed")
	speed := flag.Float64("trace-speed", 2, "how many times `faster` than in the trace calls arrive")
	keep := flag.Duration("trace-keep", 8*time.Second, "how long an idle replica is kept, in the trace's `time`; 0 leaves it to the platform")
	functions := flag.Int("functions", 100_000, "`number` of registered functions")
	deployFor := flag.Duration("functions-for", 20*time.Second, "how long they are deployed over the API; the others are stored while the platform does not run")
	pods := flag.Int("pods", 100_000, "`number` of stored pods whose memory is measured")
	bare := flag.Bool("bare-runc", false, "the baseline's containers are next to not confined, as in the tables of design/002 up to 2026-11-29")
	verbose := flag.Bool("v", false, "print each round's figures")
	flag.Parse()
	if *compare {
		return exit(compareFiles(os.Stdout, flag.Args()))
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return exit(fmt.Errorf("-run: %w", err))
	}
	if *rounds < 1 || flag.NArg() > 0 {
		return exit(errors.New("-rounds must be at least 1, and there are no arguments"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{ctx: ctx, rounds: *rounds, verbose: *verbose, settings: settings{*functions, *deployFor, *pods, *traceDir, *minutes, *speed, *keep, *bare}}
	rows := b.measure(match)
	b.clean()
	if ctx.Err() != nil {
		return exit(context.Cause(ctx)) // the last figures stay
	}
	if err := report(os.Stdout, rows, *out); err != nil {
		return exit(err)
	}
	if b.failed {
		return 1
	}
	return 0
}

func exit(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// part is what is measured together; one name for each row.
type part struct {
	names   []string
	measure func(*bench) []row
}

// parts are in the order that disturbs least: the idle platform comes first.
func parts() []part {
	return []part{
		{[]string{nameRSS, namePSS, nameCPU}, (*bench).idle},
		{[]string{namePicks1k, namePicks5k, namePicks10k, nameGrowth}, (*bench).schedule},
		{[]string{nameFanout}, (*bench).fanout},
		{[]string{nameServiceChange, nameServiceDial, nameServiceFailed}, (*bench).service},
		{[]string{nameWarm, nameWarmFloor, nameWarmHop}, (*bench).warm},
		{[]string{nameThroughput}, (*bench).throughput},
		{[]string{nameWarmTail}, (*bench).warmTail},
		{[]string{nameAsync}, (*bench).async},
		{[]string{namePersisted1k, namePersistedRate1k}, (*bench).persisted1k},
		{[]string{namePersisted, namePersistedRate}, (*bench).persisted5k},
		{[]string{nameAgents5k, nameLost5k, nameJoin5k}, (*bench).agents5k},
		{[]string{nameAgents10k, nameLost10k, nameJoin10k}, (*bench).agents10k},
		{[]string{namePodHeap, namePodEncoded}, (*bench).podHeap},
		{[]string{nameCold, nameColdTail, nameColdFloor}, (*bench).cold},
		{[]string{nameColdEmpty}, (*bench).coldEmpty},
		{[]string{nameThaw}, (*bench).thaw},
		{[]string{nameDeploy, nameDeployCold}, (*bench).deploy},
		{[]string{nameColdRate}, (*bench).coldRate},
		{[]string{nameStep, nameDecision}, (*bench).step},
		{[]string{nameBurst}, (*bench).burst},
		{[]string{nameChurn, nameChurnRate}, (*bench).churn},
		{[]string{nameSlowdown, nameSlowdownTail, nameIdleShare}, (*bench).replay},
		{[]string{nameStoreErrors, nameStoreCold, nameServerCold, nameServerErrors}, (*bench).killed},
		{[]string{nameFunctionRSS, nameLookup, nameRegWarm, nameRestart, nameRestartCPU}, (*bench).registered},
	}
}

// measure takes the rows that match. One that fails is left out and told; the
// others are measured all the same.
func (b *bench) measure(match *regexp.Regexp) []row {
	var rows []row
	for _, p := range parts() {
		if !slices.ContainsFunc(p.names, match.MatchString) || b.ctx.Err() != nil {
			continue
		}
		start := time.Now()
		got, err := b.try(p.measure)
		if why, ok := errors.AsType[skipped](err); ok {
			b.Logf("bench: skipped: %s: %v", strings.Join(p.names, "; "), why)
			for _, n := range p.names {
				rows = append(rows, row{Name: n, Skipped: why.Error()})
			}
			continue
		}
		if err != nil {
			b.Errorf("bench: not measured: %s: %v", strings.Join(p.names, "; "), err)
			continue
		}
		rows = append(rows, got...)
		b.Logf("%s: done in %.1f s", strings.Join(p.names, "; "), time.Since(start).Seconds())
	}
	return rows
}

func (b *bench) try(f func(*bench) []row) (rows []row, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, _ := r.(error)
			if !errors.As(e, new(fatal)) && !errors.As(e, new(skipped)) {
				b.clean()
				panic(r)
			}
			err = e
		}
	}()
	return f(b), nil
}

// bench is the platform's "test": what it starts is ended by clean.
type bench struct {
	ctx     context.Context //nolint:containedctx // it stands for a testing.T
	rounds  int
	verbose bool
	flags   []string // of the platform
	settings
	cleanups []func()
	failed   bool

	running *platform.Platform // see platform
	image   string             // of the measured function; see prepare
	dir     string
	watched *pods
	cold64  []string // functions at zero replicas
	runc    *runc
	traced  *replayed // see replayed
}

// settings are what flags say beside the rows and rounds.
type settings struct {
	functions    int // that are registered; see registered
	deployFor    time.Duration
	pods         int // that are stored; see podHeap
	traceDir     string
	traceMinutes int
	traceSpeed   float64
	traceKeep    time.Duration
	bareRunc     bool // see runc
}

// fatal ends the measurement of a part as a failure, skipped as one that this
// machine or this platform has no means for.
type (
	fatal   struct{ error }
	skipped struct{ error }
)

func (*bench) Helper()                    {}
func (b *bench) Context() context.Context { return b.ctx }
func (b *bench) Cleanup(f func())         { b.cleanups = append(b.cleanups, f) }
func (b *bench) Failed() bool             { return b.failed }
func (*bench) Logf(f string, a ...any)    { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (b *bench) Errorf(f string, a ...any) {
	b.failed = true
	b.Logf(f, a...)
}

func (*bench) Fatal(a ...any)            { panic(fatal{fmt.Errorf("%s", strings.TrimSpace(fmt.Sprintln(a...)))}) }
func (*bench) Fatalf(f string, a ...any) { panic(fatal{fmt.Errorf(f, a...)}) }
func (*bench) Skip(a ...any)             { panic(skipped{fmt.Errorf("%s", strings.TrimSpace(fmt.Sprintln(a...)))}) }
func (*bench) Skipf(f string, a ...any)  { panic(skipped{fmt.Errorf(f, a...)}) }

// clean ends what was started, the newest first; one that fails does not stop
// the others.
func (b *bench) clean() {
	for len(b.cleanups) > 0 {
		last := len(b.cleanups) - 1
		f := b.cleanups[last]
		b.cleanups = b.cleanups[:last]
		if _, err := b.try(func(*bench) []row { f(); return nil }); err != nil {
			b.Errorf("bench: clean up: %v", err)
		}
	}
}

// another is a bench with a platform of its own, to which the flags are given.
// Give it to end when it is done with.
func (b *bench) another(flags ...string) *bench {
	return &bench{ctx: b.ctx, rounds: b.rounds, verbose: b.verbose, flags: flags, settings: b.settings}
}

// end ends what another bench has started, and takes its faults over.
func (b *bench) end(other *bench) {
	other.clean()
	b.failed = b.failed || other.failed
}

func (b *bench) must(err error) {
	if err != nil {
		b.Fatal(err)
	}
}

// each calls f for every round.
func (b *bench) each(f func()) {
	for range b.rounds {
		b.must(b.ctx.Err())
		f()
	}
}
