package dns

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	keepMost  = 4096             // answers
	longest   = time.Hour        // that an answer is kept
	longestNo = 30 * time.Second // that it is kept that there is none
)

// cache is answers of other servers for as long as these allow. When it is full,
// the one that was not asked for longest goes.
type cache struct {
	mu    sync.Mutex
	by    map[question]*list.Element
	order *list.List // of *kept, the last asked for first
}

type kept struct {
	q      question
	m      *dns.Msg
	since  time.Time
	expiry time.Time
}

func newCache() *cache { return &cache{by: map[question]*list.Element{}, order: list.New()} }

// get answers with a copy whose records are as old as they are, or nil.
func (c *cache) get(q question, now time.Time) *dns.Msg {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.by[q]
	if !ok {
		return nil
	}
	k := e.Value.(*kept)
	if !now.Before(k.expiry) {
		c.order.Remove(e)
		delete(c.by, q)
		return nil
	}
	c.order.MoveToFront(e)
	m := k.m.Copy()
	age := uint32(now.Sub(k.since) / time.Second)
	for _, in := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, r := range in {
			if h := r.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(age, h.Ttl)
			}
		}
	}
	return m
}

// put keeps an answer, which must not be changed afterwards.
func (c *cache) put(q question, m *dns.Msg, now time.Time) {
	life := lifetime(m)
	if life <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := &kept{q: q, m: m, since: now, expiry: now.Add(life)}
	if e, ok := c.by[q]; ok {
		e.Value = k
		c.order.MoveToFront(e)
		return
	}
	c.by[q] = c.order.PushFront(k)
	if c.order.Len() > keepMost {
		oldest := c.order.Back()
		c.order.Remove(oldest)
		delete(c.by, oldest.Value.(*kept).q)
	}
}

// lifetime is the least of the records' own. That there is no such name, or no
// such record, is true for as long as the zone says (RFC 2308), and a failure is
// not kept at all.
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	life := longest
	shorten := func(seconds uint32) { life = min(life, time.Duration(seconds)*time.Second) }
	if m.Rcode == dns.RcodeNameError || len(m.Answer) == 0 {
		life = 0
		for _, r := range m.Ns {
			if soa, ok := r.(*dns.SOA); ok {
				life = longestNo
				shorten(min(soa.Minttl, soa.Hdr.Ttl))
			}
		}
	}
	for _, r := range m.Answer {
		shorten(r.Header().Ttl)
	}
	return life
}
