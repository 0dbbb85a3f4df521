package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/podsnap/podsnap/nodeagent/nft"
	"golang.org/x/sys/unix"
)

// kernel is the table in the kernel, one in each family. It is for one goroutine.
// Its socket stays in the network namespace in which it was opened.
type kernel struct {
	table   string // name, without the generation
	spans   []span
	conn    *nft.Conn
	live    []*nftables.Table // by span
	tenants bool              // in the live tables
}

const (
	perMessage = 500 // elements: a list of them has to be less than 64 KiB
	perBatch   = 8   // messages in one transaction, where it need not be one
)

func openKernel(table string, spans ...span) (*kernel, error) {
	c, err := nft.Open()
	if err != nil {
		return nil, err
	}
	return &kernel{table: table, spans: spans, conn: c, live: make([]*nftables.Table, len(spans))}, nil
}

func (k *kernel) close() { k.conn.Close() }

// build makes a table of a ledger beside the one that is there, in each family, and
// deletes that one then. Where both are, a packet has to pass both.
func (k *kernel) build(ctx context.Context, l *ledger) error {
	there, err := k.tables()
	if err != nil {
		return err
	}
	var old []*nftables.Table
	for i, n := range k.spans {
		next, works, err := k.generations(n.family(), there)
		if err != nil {
			return err
		}
		k.live[i], old = next, append(old, works...)
		k.conn.AddTable(next)
		for _, s := range ownSets() {
			if err := k.conn.AddSet(n.setOf(next, s), nil); err != nil {
				return fmt.Errorf("add set %s: %w", s, err)
			}
		}
		refuse := frame(n, l.program.tenants)[0] // which pods' chains lead to
		k.addChain(next, refuse.name, refuse.base, refuse.body)
	}
	k.tenants = l.program.tenants
	if err := k.apply(newLedger(&program{}).to(l)); err != nil {
		return fmt.Errorf("fill table %s: %w", k.table, err)
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for i, n := range k.spans {
		for _, f := range frame(n, k.tenants)[1:] {
			k.addChain(k.live[i], f.name, f.base, f.body)
		}
	}
	if err := k.conn.Commit(); err != nil {
		return fmt.Errorf("put table %s to work: %w", k.table, err)
	}
	for _, t := range there {
		if !slices.ContainsFunc(k.spans, func(n span) bool { return n.family() == t.Family }) {
			old = append(old, t) // of a family that the cluster does not have any more
		}
	}
	for _, t := range old {
		k.conn.DelTable(t)
		if err := k.conn.Commit(); err != nil {
			return fmt.Errorf("delete table %s, whose place another has taken: %w", t.Name, err)
		}
	}
	return k.conn.Trust()
}

func (k *kernel) addChain(t *nftables.Table, name string, base bool, rules body) {
	c := &nftables.Chain{Name: name, Table: t}
	if base {
		c.Type, c.Hooknum, c.Priority = nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter
	}
	k.conn.AddChain(c)
	for _, r := range rules {
		k.conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: r})
	}
}

// generations finds a name for a new table of a family, and the tables of it that
// are there. What of them does nothing, being what is left of a build that did not
// end, goes.
func (k *kernel) generations(family nftables.TableFamily, there []*nftables.Table) (next *nftables.Table, old []*nftables.Table, err error) {
	works := map[string]bool{}
	chains, err := k.conn.ListChainsOfTableFamily(family)
	if err != nil {
		return nil, nil, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		works[c.Table.Name] = works[c.Table.Name] || c.Hooknum != nil
	}
	for _, t := range there {
		switch {
		case t.Family != family:
			continue
		case works[t.Name] && len(old) == 0:
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
			return &nftables.Table{Family: family, Name: name}, old, nil
		}
	}
	return nil, nil, errors.New("no name is free") // there are two
}

func (k *kernel) names() []string { return []string{k.table + "-0", k.table + "-1"} }

// tables are ours that are there, of whatever family.
func (k *kernel) tables() (out []*nftables.Table, err error) {
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		all, err := k.conn.ListTablesOfFamily(f)
		if err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		for _, t := range all {
			if slices.Contains(k.names(), t.Name) {
				out = append(out, &nftables.Table{Family: f, Name: t.Name})
			}
		}
	}
	return out, nil
}

// apply writes changes into the live tables. Few changes are one transaction.
func (k *kernel) apply(c *changes) error {
	for i, n := range k.spans {
		if err := k.applyIn(n, k.live[i], c); err != nil {
			return err
		}
	}
	if err := k.conn.Commit(); err != nil {
		return fmt.Errorf("change table %s: %w", k.table, err)
	}
	return nil
}

// applyIn is apply in one family: what is led to comes before what leads there, and
// the other way round for what goes.
func (k *kernel) applyIn(n span, t *nftables.Table, c *changes) error {
	for _, s := range c.sets {
		if err := k.conn.AddSet(n.setOf(t, s), nil); err != nil {
			return fmt.Errorf("add set %s: %w", s, err)
		}
	}
	plain, led := split(c.added)
	plainGone, ledGone := split(c.removed)
	if err := k.elements(n, t, k.conn.SetAddElements, plain); err != nil {
		return err
	}
	k.addChains(n, t, c.chains)
	for _, by := range []struct {
		do  func(*nftables.Set, []nftables.SetElement) error
		all []element
	}{{k.conn.SetDeleteElements, ledGone}, {k.conn.SetAddElements, led}} {
		if err := k.elements(n, t, by.do, by.all); err != nil {
			return err
		}
	}
	for _, dependent := range []bool{true, false} {
		for _, ch := range c.noChains {
			if (ch.jumps != nil) == dependent {
				c := &nftables.Chain{Name: ch.name, Table: t}
				k.conn.FlushChain(c)
				k.conn.DelChain(c)
			}
		}
	}
	if err := k.elements(n, t, k.conn.SetDeleteElements, plainGone); err != nil {
		return err
	}
	for _, s := range c.noSets {
		k.conn.DelSet(n.setOf(t, s))
	}
	return nil
}

// addChains adds the policies' chains before those that jump to them.
func (k *kernel) addChains(n span, t *nftables.Table, all []chain) {
	for _, dependent := range []bool{false, true} {
		for _, ch := range all {
			if (ch.jumps != nil) == dependent {
				k.addChain(t, ch.name, false, ch.body(n))
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

// elements adds or deletes those of a family, message by message.
func (k *kernel) elements(n span, t *nftables.Table, do func(*nftables.Set, []nftables.SetElement) error, all []element) error {
	by := map[string][]nftables.SetElement{}
	for _, e := range all {
		if e.six() == n.six() {
			by[e.set] = append(by[e.set], encode(e))
		}
	}
	queued := 0
	for _, set := range slices.Sorted(maps.Keys(by)) {
		for some := range slices.Chunk(by[set], perMessage) {
			if err := do(n.setOf(t, set), some); err != nil {
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
	for i, n := range k.spans {
		if err := k.conn.Within(func() error { return errors.Join(k.auditChains(n, k.live[i], l), k.auditSets(n, k.live[i], l)) }); err != nil {
			return err
		}
	}
	k.conn.TrustAt(now)
	return nil
}

// auditChains counts rules: who puts others in the place of ours means it.
func (k *kernel) auditChains(n span, t *nftables.Table, l *ledger) error {
	want := map[string]int{}
	for _, f := range frame(n, k.tenants) {
		want[f.name] = len(f.body)
	}
	for name, c := range l.chains() {
		want[name] = len(c.body(n))
	}
	for name, rules := range want {
		there, err := k.conn.GetRules(t, &nftables.Chain{Name: name, Table: t})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("list the rules of %s: %w", t.Name, err)
		}
		if len(there) != rules {
			return fmt.Errorf("%w: %s has %d rules instead of %d", errBroken, name, len(there), rules)
		}
	}
	return nil
}

func (k *kernel) auditSets(n span, t *nftables.Table, l *ledger) error {
	want := map[string]map[string]bool{}
	for _, s := range ownSets() {
		want[s] = map[string]bool{}
	}
	for s := range l.sets() {
		want[s] = map[string]bool{}
	}
	for e := range l.elements() {
		if e.six() == n.six() {
			want[e.set][e.key] = true
		}
	}
	for name, keys := range want {
		there, err := k.conn.GetSetElements(n.setOf(t, name))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("list %s of table %s: %w", name, t.Name, err)
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
	clear(k.live)
	if err := k.conn.Commit(); err != nil {
		return fmt.Errorf("delete table %s: %w", k.table, err)
	}
	return nil
}
