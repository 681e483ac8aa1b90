// SPDX-License-Identifier: Apache-2.0

package catalog

// SetEntries brings many config entries to what another datacenter has, all at once, so that no chain is seen half changed. They were
// validated where they were written. The result has no value.
type SetEntries struct {
	Set    []EntryBox `json:",omitempty"`
	Delete []EntryRef `json:",omitempty"`
}

// EntryRef names a config entry.
type EntryRef struct {
	Kind string
	Key  Key
}

func (SetEntries) commandType() string { return "set-entries" }

func (u *unit) setEntries(c *SetEntries) error {
	u.copied = true
	for _, ref := range c.Delete {
		if _, err := u.deleteEntry(&DeleteEntry{Kind: ref.Kind, Key: ref.Key}); err != nil {
			return err
		}
	}
	for _, box := range c.Set {
		if _, err := u.setEntry(box.Entry, nil); err != nil {
			return err
		}
	}
	return nil
}

// AllEntries lists the config entries of all kinds, partitions and namespaces, by kind and name.
func (t *Txn) AllEntries() ([]Entry, error) {
	if err := t.use(abroadTopic); err != nil {
		return nil, err
	}
	return t.entriesUnder(""), nil
}

// SameContent says whether two entries say the same, wherever and whenever they were written.
func SameContent(a, b Entry) (bool, error) {
	x, err := contentOf(a)
	if err != nil {
		return false, err
	}
	y, err := contentOf(b)
	return x == y, err
}

// contentOf is what an entry says, encoded.
func contentOf(e Entry) (string, error) {
	raw, err := encode(e)
	if err != nil {
		return "", err
	}
	plain, err := NewEntry(e.EntryKind())
	if err != nil {
		return "", err
	}
	if err := decode(raw, plain); err != nil {
		return "", err
	}
	head := plain.Head()
	head.Hash, head.Indexes, head.Datacenter = 0, Indexes{}, ""
	raw, err = encode(plain)
	return e.EntryKind() + "\x00" + string(raw), err
}
