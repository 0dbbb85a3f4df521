package fleet

// Known is the number of functions that something is remembered of.
func (f *Fleet) Known() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.functions)
}
