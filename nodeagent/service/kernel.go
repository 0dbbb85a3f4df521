package service

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/podsnap/podsnap/nodeagent/nft"
	"golang.org/x/sys/unix"
)

// kernel is the table in the kernel, one for each family. It is for one goroutine.
// Its sockets stay in the network namespace in which it was opened.
type kernel struct {
	table string // name, without the generation
	rules []rules
	conn  *nft.Conn
	list  *lister
	live  []*nftables.Table // by rules; nil before the first build
}

const (
	perMessage = 500 // elements: a list of them has to be less than 64 KiB, and one of IPv6 takes 84 bytes
	perBatch   = 8   // messages in one transaction, where it need not be one
)

func openKernel(table string, r ...rules) (*kernel, error) {
	k := &kernel{table: table, rules: r, live: make([]*nftables.Table, len(r))}
	var err error
	if k.list, err = newLister(); err != nil {
		return nil, err
	}
	if k.conn, err = nft.Open(); err != nil {
		k.list.close()
		return nil, err
	}
	return k, nil
}

func (k *kernel) close() {
	k.list.close()
	k.conn.Close()
}

// build makes a table of a ledger beside the one that is there. Both work for a
// moment before the old one goes: a packet goes through a hook's chains one after
// the other, and when a transaction that swaps two of them comes in between it
// meets neither the one nor the other. With both, the first that changes a
// connection's destination has it, and the second lets it be.
// The same way serves a first start, an agent that comes back, one whose rules
// have changed, and a table that somebody has broken.
func (k *kernel) build(ctx context.Context, l *ledger) error {
	for i, r := range k.rules {
		if err := k.buildIn(ctx, i, r, l); err != nil {
			return err
		}
	}
	if len(k.rules) == 1 { // what is there of another family is of a time when the cluster had it
		if err := k.removeFamily(nftables.TableFamilyIPv6); err != nil {
			return err
		}
	}
	return k.conn.Trust()
}

// buildIn is build in one family.
func (k *kernel) buildIn(ctx context.Context, i int, r rules, l *ledger) error {
	next, old, err := k.generations(r.family())
	if err != nil {
		return err
	}
	for _, s := range allSets(r.six()) {
		if err := k.conn.AddSet(r.set(next, s), nil); err != nil {
			return fmt.Errorf("add set %s: %w", s, err)
		}
	}
	if err := k.conn.Commit(); err != nil {
		return fmt.Errorf("add table %s: %w", next.Name, err)
	}
	if err := k.fill(ctx, next, r, l); err != nil {
		return err
	}
	for _, ch := range r.chains() {
		k.addChain(next, ch)
	}
	for _, ch := range r.chains() {
		for _, body := range ch.body {
			k.conn.AddRule(&nftables.Rule{Table: next, Chain: &nftables.Chain{Name: ch.name, Table: next}, Exprs: body})
		}
	}
	if err := k.conn.Commit(); err != nil {
		return fmt.Errorf("put table %s to work: %w", next.Name, err)
	}
	if old != nil {
		k.conn.DelTable(old)
		if err := k.conn.Commit(); err != nil {
			return fmt.Errorf("delete table %s, whose place another has taken: %w", old.Name, err)
		}
	}
	k.live[i] = next
	return nil
}

func (k *kernel) addChain(t *nftables.Table, c chain) {
	n := nftables.Chain{}
	if c.base != nil {
		n = *c.base
	}
	n.Name, n.Table = c.name, t
	k.conn.AddChain(&n)
}

// generations makes an empty table under the name that is free, and tells which
// one works now, if any. A table without chains is what is left of a build that
// did not end.
func (k *kernel) generations(family nftables.TableFamily) (next, old *nftables.Table, err error) {
	tables, err := k.conn.ListTablesOfFamily(family)
	if err != nil {
		return nil, nil, fmt.Errorf("list tables: %w", err)
	}
	chains, err := k.conn.ListChainsOfTableFamily(family)
	if err != nil {
		return nil, nil, fmt.Errorf("list chains: %w", err)
	}
	for _, name := range k.names() {
		t := &nftables.Table{Family: family, Name: name}
		there := slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name })
		works := slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == name })
		switch {
		case there && works && old == nil:
			old = t
			continue
		case there:
			k.conn.DelTable(t)
		}
		if next == nil {
			next = t
		}
	}
	k.conn.AddTable(next)
	return next, old, nil
}

func (k *kernel) names() []string { return []string{k.table + "-0", k.table + "-1"} }

// set describes one as nftables does. Its types are for a person who lists it.
func (r rules) set(t *nftables.Table, s set) *nftables.Set {
	address := nftables.TypeIPAddr
	if r.six() {
		address = nftables.TypeIP6Addr
	}
	front := []nftables.SetDatatype{address, nftables.TypeInetProto, nftables.TypeInetService}
	out := &nftables.Set{
		Table: t, Name: s.String(), ID: uint32(s) + 1, IsMap: s.isMap(),
		KeyType: nftables.MustConcatSetType(front...),
	}
	switch s.kind() {
	case slots, outer:
		out.KeyType = nftables.MustConcatSetType(append(front, nftables.TypeMark)...)
		out.DataType = nftables.MustConcatSetType(address, nftables.TypeInetService)
	case loops:
		out.KeyType = nftables.MustConcatSetType(address, address)
	case allowed:
		out.KeyType = nftables.MustConcatSetType(append(front, address)...)
		out.Concatenation, out.Interval = true, true
	default:
	}
	return out
}

// apply writes changes into the tables that work, each phase in one transaction.
func (k *kernel) apply(c *changes) error {
	for p := range phases {
		queued := false
		for i, r := range k.rules {
			some, err := k.queue(r, k.live[i], c, p)
			if err != nil {
				return err
			}
			queued = queued || some
		}
		if !queued {
			continue
		}
		if err := k.conn.Commit(); err != nil {
			return fmt.Errorf("change the elements of table %s: %w", k.table, err)
		}
	}
	return nil
}

// queue has a phase's changes of one family's table in the next transaction, and
// tells whether there are any.
func (k *kernel) queue(r rules, t *nftables.Table, c *changes, p phase) (queued bool, err error) {
	for _, s := range allSets(r.six()) {
		// What is removed and added again gets another value.
		for _, some := range cut(c.removed[p][s]) {
			queued = true
			if err := k.conn.SetDeleteElements(r.set(t, s), encode(s, some)); err != nil {
				return queued, err
			}
		}
		for _, some := range cut(c.added[p][s]) {
			queued = true
			if err := k.conn.SetAddElements(r.set(t, s), encode(s, some)); err != nil {
				return queued, err
			}
		}
	}
	return queued, nil
}

// fill puts all of a ledger's family into a table that nothing leads to yet.
func (k *kernel) fill(ctx context.Context, t *nftables.Table, r rules, l *ledger) error {
	var all [sets][]element
	l.all(func(s set, e element) { all[s] = append(all[s], e) })
	queued := 0
	for _, s := range allSets(r.six()) {
		for _, some := range cut(all[s]) {
			if err := k.conn.SetAddElements(r.set(t, s), encode(s, some)); err != nil {
				return err
			}
			if queued++; queued%perBatch != 0 {
				continue
			}
			if err := errors.Join(k.conn.Commit(), context.Cause(ctx)); err != nil {
				return fmt.Errorf("fill table %s: %w", t.Name, err)
			}
		}
	}
	if queued%perBatch == 0 {
		return nil
	}
	if err := k.conn.Commit(); err != nil {
		return fmt.Errorf("fill table %s: %w", t.Name, err)
	}
	return nil
}

// cut makes portions of a message each.
func cut(in []element) [][]element { return slices.Collect(slices.Chunk(in, perMessage)) }

func encode(s set, in []element) []nftables.SetElement {
	out := make([]nftables.SetElement, len(in))
	for i := range in {
		out[i].Key = in[i].key[:s.keySize():s.keySize()]
		if s.kind() == allowed {
			out[i].KeyEnd = s.keyEnd(in[i].key)
		}
		if s.isMap() {
			out[i].Val = in[i].value.encode()
		}
	}
	return out
}

// errBroken is a table that cannot be repaired by its elements.
var errBroken = errors.New("the table's chains are not as they were made")

// audit compares the table with the ledger, if anybody has changed the kernel's
// rule set since the last time, and answers with what has to be changed back.
func (k *kernel) audit(l *ledger) (*changes, error) {
	now, touched, err := k.conn.Touched()
	if err != nil || !touched {
		return nil, err
	}
	var c changes
	wrong := false
	for i, r := range k.rules {
		bad, err := k.compare(r, k.live[i], l, &c)
		if err != nil {
			return nil, err
		}
		wrong = wrong || bad
	}
	k.conn.TrustAt(now)
	if !wrong {
		return nil, nil
	}
	return &c, nil
}

// compare notes what has to be changed back in one family's table, and tells
// whether there is anything.
func (k *kernel) compare(r rules, t *nftables.Table, l *ledger, c *changes) (wrong bool, err error) {
	if err := k.checkChains(r, t); err != nil {
		return false, err
	}
	var right [sets]map[elementKey]bool
	for _, s := range allSets(r.six()) {
		right[s] = map[elementKey]bool{}
		err := k.list.elements(t, s, func(e element) {
			if l.has(s, e) {
				right[s][e.key] = true
				return
			}
			wrong = true
			c.remove(phaseAdd, s, e)
		})
		if err != nil {
			return false, fmt.Errorf("list %s of table %s: %w", s, t.Name, err)
		}
	}
	l.all(func(s set, e element) {
		if s.six() == r.six() && !right[s][e.key] {
			wrong = true
			c.add(phaseAdd, s, e)
		}
	})
	return wrong, nil
}

// checkChains counts rules: who puts others in the place of ours means it.
func (k *kernel) checkChains(r rules, t *nftables.Table) error {
	for _, c := range r.chains() {
		there, err := k.list.rules(t, c.name)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("list the rules of %s: %w", t.Name, err)
		}
		if there != len(c.body) {
			return fmt.Errorf("%w: %s has %d rules instead of %d", errBroken, c.name, there, len(c.body))
		}
	}
	return nil
}

// remove deletes what builds have made.
func (k *kernel) remove() error {
	clear(k.live)
	return errors.Join(k.removeFamily(nftables.TableFamilyIPv4), k.removeFamily(nftables.TableFamilyIPv6))
}

func (k *kernel) removeFamily(f nftables.TableFamily) error {
	tables, err := k.conn.ListTablesOfFamily(f)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	some := false
	for _, t := range tables {
		if slices.Contains(k.names(), t.Name) {
			some = true
			k.conn.DelTable(&nftables.Table{Family: f, Name: t.Name})
		}
	}
	if !some {
		return nil
	}
	if err := k.conn.Commit(); err != nil {
		return fmt.Errorf("delete table %s: %w", k.table, err)
	}
	return nil
}
