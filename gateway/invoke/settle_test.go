package invoke

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/test/bubble"
)

// The last requests of a crowd are told, though each is little growth; one that
// comes long after it is left to the regular report.
func TestCrowdIsTold(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := &Invoker{}
		v.demand = newReporter(v)
		f := &function{v: v, inFlight: 10, told: 10}
		told := func() bool { // takes the report
			v.demand.mu.Lock()
			defer v.demand.mu.Unlock()
			is := v.demand.now[f]
			delete(v.demand.now, f)
			if is {
				f.report()
			}
			return is
		}
		grow := func() {
			f.mu.Lock()
			f.inFlight++
			f.mu.Unlock()
		}
		rest := func() {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		f.settle(0)
		if told() {
			t.Error("told what was told before")
		}
		f.settle(0) // while it is looking anyway
		grow()
		rest()
		if !told() {
			t.Error("the end of the crowd was not told")
		}
		grow()
		rest()
		if told() {
			t.Error("it looks for ever")
		}
		f.settle(0) // the next crowd
		grow()
		rest()
		if !told() {
			t.Error("the end of the second crowd was not told")
		}
	})
}
