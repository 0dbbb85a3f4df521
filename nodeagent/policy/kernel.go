package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/podsnap/podsnap/nodeagent/nft"
	"golang.org/x/sys/unix"
)

// kernel is the table in the kernel. It is for one goroutine. Its socket stays in
// the network namespace in which it was opened.
type kernel struct {
	table   string // name, without the generation
	span    span
	conn    *nft.Conn
	live    *nftables.Table
	tenants bool // in the live table
}

const (
	perMessage = 500 // elements: a list of them has to be less than 64 KiB
	perBatch   = 8   // messages in one transaction, where it need not be one
)

// span is the pod network: of all nodes, and of this one.
type span struct{ cluster, own netip.Prefix }

func openKernel(table string, s span) (*kernel, error) {
	c, err := nft.Open()
	if err != nil {
		return nil, err
	}
	return &kernel{table: table, span: s, conn: c}, nil
}

func (k *kernel) close() { k.conn.Close() }

// build makes a table of a ledger beside the one that is there, and deletes that
// one then. Where both are, a packet has to pass both.
func (k *kernel) build(ctx context.Context, l *ledger) error {
	next, old, err := k.generations()
	if err != nil {
		return err
	}
	k.conn.AddTable(next)
	for _, s := range ownSets() {
		if err := k.conn.AddSet(setOf(next, s), nil); err != nil {
			return fmt.Errorf("add set %s: %w", s, err)
		}
	}
	k.live, k.tenants = next, l.program.tenants
	frame := frame(k.span, k.tenants)
	k.addChain(frame[0].name, frame[0].base, frame[0].body) // which pods' chains lead to
	if err := k.apply(newLedger(&program{}).to(l)); err != nil {
		return fmt.Errorf("fill table %s: %w", next.Name, err)
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for _, f := range frame[1:] {
		k.addChain(f.name, f.base, f.body)
	}
	if err := k.conn.Commit(); err != nil {
		return fmt.Errorf("put table %s to work: %w", next.Name, err)
	}
	for _, t := range old {
		k.conn.DelTable(t)
		if err := k.conn.Commit(); err != nil {
			return fmt.Errorf("delete table %s, whose place another has taken: %w", t.Name, err)
		}
	}
	return k.conn.Trust()
}

func (k *kernel) addChain(name string, base bool, rules body) {
	c := &nftables.Chain{Name: name, Table: k.live}
	if base {
		c.Type, c.Hooknum, c.Priority = nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter
	}
	k.conn.AddChain(c)
	for _, r := range rules {
		k.conn.AddRule(&nftables.Rule{Table: k.live, Chain: c, Exprs: r})
	}
}

// generations finds a name for a new table, and the tables that are there. What
// of them does nothing, being what is left of a build that did not end, goes.
func (k *kernel) generations() (next *nftables.Table, old []*nftables.Table, err error) {
	there, err := k.tables()
	if err != nil {
		return nil, nil, err
	}
	works := map[string]bool{}
	chains, err := k.conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, nil, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		works[c.Table.Name] = works[c.Table.Name] || c.Hooknum != nil
	}
	for _, t := range there {
		if works[t.Name] && len(old) == 0 {
			old = append(old, t)
			continue
		}
		k.conn.DelTable(t)
		if err := k.conn.Commit(); err != nil {
			return nil, nil, fmt.Errorf("delete table %s: %w", t.Name, err)
		}
	}
	for _, name := range k.names() {
		if len(old) == 0 || old[0].Name != name {
			return k.named(name), old, nil
		}
	}
	return nil, nil, errors.New("no name is free") // there are two
}

func (k *kernel) names() []string { return []string{k.table + "-0", k.table + "-1"} }

func (*kernel) named(name string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
}

// tables are ours that are there.
func (k *kernel) tables() (out []*nftables.Table, err error) {
	all, err := k.conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	for _, t := range all {
		if slices.Contains(k.names(), t.Name) {
			out = append(out, k.named(t.Name))
		}
	}
	return out, nil
}

// apply writes changes into the live table: what is led to before what leads
// there, and the other way round for what goes. Few changes are one transaction.
func (k *kernel) apply(c *changes) error {
	for _, s := range c.sets {
		if err := k.conn.AddSet(setOf(k.live, s), nil); err != nil {
			return fmt.Errorf("add set %s: %w", s, err)
		}
	}
	plain, led := split(c.added)
	plainGone, ledGone := split(c.removed)
	if err := k.elements(k.conn.SetAddElements, plain); err != nil {
		return err
	}
	k.addChains(c.chains)
	for _, by := range []struct {
		do  func(*nftables.Set, []nftables.SetElement) error
		all []element
	}{{k.conn.SetDeleteElements, ledGone}, {k.conn.SetAddElements, led}} {
		if err := k.elements(by.do, by.all); err != nil {
			return err
		}
	}
	for _, dependent := range []bool{true, false} {
		for _, ch := range c.noChains {
			if (ch.jumps != nil) == dependent {
				t := &nftables.Chain{Name: ch.name, Table: k.live}
				k.conn.FlushChain(t)
				k.conn.DelChain(t)
			}
		}
	}
	if err := k.elements(k.conn.SetDeleteElements, plainGone); err != nil {
		return err
	}
	for _, s := range c.noSets {
		k.conn.DelSet(setOf(k.live, s))
	}
	if err := k.conn.Commit(); err != nil {
		return fmt.Errorf("change table %s: %w", k.live.Name, err)
	}
	return nil
}

// addChains adds the policies' chains before those that jump to them.
func (k *kernel) addChains(all []chain) {
	for _, dependent := range []bool{false, true} {
		for _, ch := range all {
			if (ch.jumps != nil) == dependent {
				k.addChain(ch.name, false, ch.body())
			}
		}
	}
}

// split tells elements of maps, which lead to something, from plain ones.
func split(all []element) (plain, led []element) {
	for _, e := range all {
		if e.chain != "" || e.tenant != 0 {
			led = append(led, e)
		} else {
			plain = append(plain, e)
		}
	}
	return plain, led
}

// elements adds or deletes some, message by message.
func (k *kernel) elements(do func(*nftables.Set, []nftables.SetElement) error, all []element) error {
	by := map[string][]nftables.SetElement{}
	for _, e := range all {
		by[e.set] = append(by[e.set], encode(e))
	}
	queued := 0
	for _, set := range slices.Sorted(maps.Keys(by)) {
		for some := range slices.Chunk(by[set], perMessage) {
			if err := do(setOf(k.live, set), some); err != nil {
				return fmt.Errorf("elements of %s: %w", set, err)
			}
			if len(some) < perMessage {
				continue
			}
			if queued++; queued%perBatch == 0 {
				if err := k.conn.Commit(); err != nil {
					return fmt.Errorf("elements of %s: %w", set, err)
				}
			}
		}
	}
	return nil
}

// errBroken is a table that somebody else has changed.
var errBroken = errors.New("the table is not as it was made")

// audit compares the table with the ledger, if anybody else has changed the
// kernel's rule set since the last time.
func (k *kernel) audit(l *ledger) error {
	now, touched, err := k.conn.Touched()
	if err != nil || !touched {
		return err
	}
	if err := k.conn.Within(func() error { return errors.Join(k.auditChains(l), k.auditSets(l)) }); err != nil {
		return err
	}
	k.conn.TrustAt(now)
	return nil
}

// auditChains counts rules: who puts others in the place of ours means it.
func (k *kernel) auditChains(l *ledger) error {
	want := map[string]int{}
	for _, f := range frame(k.span, k.tenants) {
		want[f.name] = len(f.body)
	}
	for name, c := range l.chains() {
		want[name] = len(c.body())
	}
	for name, n := range want {
		there, err := k.conn.GetRules(k.live, &nftables.Chain{Name: name, Table: k.live})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("list the rules of %s: %w", k.live.Name, err)
		}
		if len(there) != n {
			return fmt.Errorf("%w: %s has %d rules instead of %d", errBroken, name, len(there), n)
		}
	}
	return nil
}

func (k *kernel) auditSets(l *ledger) error {
	want := map[string]map[string]bool{}
	for _, s := range ownSets() {
		want[s] = map[string]bool{}
	}
	for s := range l.sets() {
		want[s] = map[string]bool{}
	}
	for e := range l.elements() {
		want[e.set][e.key] = true
	}
	for name, keys := range want {
		there, err := k.conn.GetSetElements(setOf(k.live, name))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("list %s of table %s: %w", name, k.live.Name, err)
		}
		for _, e := range there {
			if !keys[string(e.Key)] {
				return fmt.Errorf("%w: %s has an element too many", errBroken, name)
			}
		}
		if len(there) != len(keys) {
			return fmt.Errorf("%w: %s has %d elements instead of %d", errBroken, name, len(there), len(keys))
		}
	}
	return nil
}

// remove deletes what builds have made.
func (k *kernel) remove() error {
	there, err := k.tables()
	if err != nil || len(there) == 0 {
		return err
	}
	for _, t := range there {
		k.conn.DelTable(t)
	}
	k.live = nil
	if err := k.conn.Commit(); err != nil {
		return fmt.Errorf("delete table %s: %w", k.table, err)
	}
	return nil
}
