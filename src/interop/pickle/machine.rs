//! The stack machine of pickle, as far as tensors need it. Values lie in one list and refer to each other by number, so
//! that neither copies nor nesting can exhaust memory or stack.

use std::collections::BTreeMap;

use super::storage::{Number, Storage, Wanted};
use super::Fault;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Node {
    None,
    /// A flag or a number with a fraction, which decide nothing.
    Other,
    Number(i64),
    /// Of more than 8 bytes, little endian.
    Large(Vec<u8>),
    Text(String),
    /// What may be called or named.
    Name(Name),
    Tuple(Vec<usize>),
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    /// By number.
    Storage(usize),
    Tensor(Wanted),
}

/// Everything that a file may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Number),
}

impl Name {
    fn of(module: &str, name: &str) -> Result<Self, Fault> {
        match (module, name) {
            ("collections", "OrderedDict") => Ok(Name::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Name::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Name::RebuildParameter),
            ("torch", name) if Number::of_storage(name).is_some() => {
                Ok(Number::of_storage(name).map_or(Name::OrderedDict, Name::Storage))
            }
            _ => Err(format!(
                "it asks for `{module}.{name}`, which is no part of a tensor; files that hold more than tensors are not \
                 read, for they may run programs"
            )),
        }
    }
}

/// Values, stack and memory of one file's programs.
#[derive(Default)]
pub(super) struct Machine {
    nodes: Vec<Node>,
    stack: Vec<usize>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: BTreeMap<u32, usize>,
    storages: Vec<Storage>,
    by_key: BTreeMap<String, usize>,
}

const CUT: &str = "damaged or cut off: its program ends early";

impl Machine {
    /// Runs one program; its result and how many bytes it had.
    pub(super) fn run(&mut self, program: &[u8]) -> Result<(usize, usize), Fault> {
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        let mut code = Code { bytes: program, at: 0 };
        while code.one()? != b'.' {
            code.at -= 1;
            self.step(&mut code)?;
        }
        Ok((self.pop()?, code.at))
    }

    pub(super) fn node(&self, id: usize) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn text(&self, id: usize) -> Result<&str, Fault> {
        match self.node(id) {
            Node::Text(text) => Ok(text),
            _ => Err("damaged: a number or list stands where a name is expected".to_string()),
        }
    }

    pub(super) fn storage(&self, id: usize) -> &Storage {
        &self.storages[id]
    }

    pub(super) fn storage_of(&self, key: &str) -> Option<&Storage> {
        self.by_key.get(key).map(|&id| &self.storages[id])
    }

    /// 0 for an unknown key; ask [`Machine::storage_of`] first.
    pub(super) fn storage_id(&self, key: &str) -> usize {
        self.by_key.get(key).copied().unwrap_or_default()
    }

    fn step(&mut self, code: &mut Code) -> Result<(), Fault> {
        match code.one()? {
            // protocol, frame: nothing to do
            0x80 => drop(code.one()?),
            0x95 => drop(code.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Node::None),
            0x88 | 0x89 => self.push(Node::Other),
            b'K' => {
                let n = code.little(1)?;
                self.push(Node::Number(n as i64));
            }
            b'M' => {
                let n = code.little(2)?;
                self.push(Node::Number(n as i64));
            }
            b'J' => {
                let n = code.little(4)? as u32;
                self.push(Node::Number(i64::from(n as i32)));
            }
            0x8a => self.long(code)?,
            b'G' => {
                code.take(8)?;
                self.push(Node::Other);
            }
            b'X' => self.push_text(code, 4)?,
            0x8c => self.push_text(code, 1)?,
            b'c' => {
                let (module, name) = (code.line()?, code.line()?);
                self.push(Node::Name(Name::of(module, name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let name = Name::of(self.text(module)?, self.text(name)?)?;
                self.push(Node::Name(name));
            }
            b')' => self.push(Node::Tuple(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items));
            }
            count @ 0x85..=0x87 => {
                let first = self.stack.len().checked_sub(usize::from(count - 0x84)).ok_or(CUT)?;
                let items = self.stack.split_off(first);
                self.push(Node::Tuple(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.extend(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(&items)?;
            }
            b'q' => self.put(code.little(1)? as u32)?,
            b'r' => self.put(code.little(4)? as u32)?,
            0x94 => self.put(self.memo.len() as u32)?,
            b'h' => self.get(code.little(1)? as u32)?,
            b'j' => self.get(code.little(4)? as u32)?,
            b'Q' => self.load_storage()?,
            b'R' => self.call()?,
            // attributes of a dict: of a module's state dict, the versions of its parts
            b'b' => drop(self.pop()?),
            other => return Err(format!("not a file of tensors: its program has the operation {other:#04x}")),
        }
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Result<usize, Fault> {
        Ok(self.stack.pop().ok_or(CUT)?)
    }

    fn top(&mut self) -> Result<&mut Node, Fault> {
        let &id = self.stack.last().ok_or(CUT)?;
        Ok(&mut self.nodes[id])
    }

    fn since_mark(&mut self) -> Result<Vec<usize>, Fault> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or(CUT)?;
        Ok(self.stack.split_off(mark))
    }

    fn long(&mut self, code: &mut Code) -> Result<(), Fault> {
        let count = code.one()?;
        let bytes = code.take(usize::from(count))?;
        let node = match bytes.len() {
            0 => Node::Number(0),
            n if n <= 8 => {
                let fill = if bytes[n - 1] < 0x80 { 0 } else { 0xFF };
                let mut eight = [fill; 8];
                eight[..n].copy_from_slice(bytes);
                Node::Number(i64::from_le_bytes(eight))
            }
            _ => Node::Large(bytes.to_vec()),
        };
        self.push(node);
        Ok(())
    }

    fn push_text(&mut self, code: &mut Code, width: usize) -> Result<(), Fault> {
        let length = usize::try_from(code.little(width)?).map_err(|_| CUT)?;
        let text = std::str::from_utf8(code.take(length)?).map_err(|_| "damaged: a name in it is not UTF-8")?;
        self.push(Node::Text(text.to_string()));
        Ok(())
    }

    fn extend(&mut self, items: Vec<usize>) -> Result<(), Fault> {
        match self.top()? {
            Node::List(list) => list.extend(items),
            _ => return Err("damaged: something is appended that is no list".to_string()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[usize]) -> Result<(), Fault> {
        match self.top()? {
            Node::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err("damaged: items are put into something that is no dict".to_string()),
        }
        Ok(())
    }

    fn put(&mut self, name: u32) -> Result<(), Fault> {
        let &id = self.stack.last().ok_or(CUT)?;
        self.memo.insert(name, id);
        Ok(())
    }

    fn get(&mut self, name: u32) -> Result<(), Fault> {
        let &id = self.memo.get(&name).ok_or(CUT)?;
        self.stack.push(id);
        Ok(())
    }

    /// `("storage", type, key, device, count)`; the older form adds what part of it is meant, which is all.
    fn load_storage(&mut self) -> Result<(), Fault> {
        let wrong = "damaged: a storage is described in an unknown way";
        let id = self.pop()?;
        let Node::Tuple(parts) = self.node(id) else { return Err(wrong.to_string()) };
        let (&[kind, number, key, _, count] | &[kind, number, key, _, count, _]) = &parts[..] else {
            return Err(wrong.to_string());
        };
        if parts.get(5).is_some_and(|&view| !matches!(self.node(view), Node::None)) {
            return Err("its storages share parts, as very old versions of PyTorch wrote them".to_string());
        }
        let (&Node::Name(Name::Storage(number)), &Node::Number(count)) = (self.node(number), self.node(count)) else {
            return Err(wrong.to_string());
        };
        let (key, count) = (self.text(key)?.to_string(), usize::try_from(count).map_err(|_| wrong)?);
        if self.text(kind)? != "storage" {
            return Err(wrong.to_string());
        }
        let fresh = self.storages.len();
        let id = *self.by_key.entry(key.clone()).or_insert(fresh);
        if id == fresh {
            self.storages.push(Storage { key, number, count });
        } else if (self.storages[id].number, self.storages[id].count) != (number, count) {
            return Err(format!("damaged: its storage {key} is described in two ways"));
        }
        self.push(Node::Storage(id));
        Ok(())
    }

    fn call(&mut self) -> Result<(), Fault> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Node::Tuple(arguments) = self.node(arguments) else { return Err(CUT.to_string()) };
        let result = match (self.node(callable), &arguments[..]) {
            (Node::Name(Name::OrderedDict), []) => Node::Dict(Vec::new()),
            (Node::Name(Name::RebuildParameter), &[data, ..]) => self.node(data).clone(),
            (Node::Name(Name::RebuildTensor), &[storage, offset, size, stride, ..]) => {
                let &Node::Storage(storage) = self.node(storage) else {
                    return Err("damaged: a tensor has no storage".to_string());
                };
                let [shape, strides] = [self.sizes(size)?, self.sizes(stride)?];
                let offset = self.size(offset)?;
                Node::Tensor(Wanted { name: String::new(), storage, offset, shape, strides })
            }
            _ => return Err("damaged: something is called in an unknown way".to_string()),
        };
        self.push(result);
        Ok(())
    }

    fn sizes(&self, id: usize) -> Result<Vec<usize>, Fault> {
        match self.node(id) {
            Node::Tuple(items) if items.len() <= 8 => items.iter().map(|&item| self.size(item)).collect(),
            _ => Err("damaged: the shape of a tensor is no short list".to_string()),
        }
    }

    fn size(&self, id: usize) -> Result<usize, Fault> {
        match self.node(id) {
            Node::Number(n) => Ok(usize::try_from(*n).map_err(|_| "damaged: a size below zero")?),
            _ => Err("damaged: a size is no number".to_string()),
        }
    }
}

/// A program and where it is.
struct Code<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Code<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len()).ok_or(CUT)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn one(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    /// A whole number of `width` bytes, the lowest first.
    fn little(&mut self, width: usize) -> Result<u64, Fault> {
        Ok(self.take(width)?.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or(CUT)?;
        self.at += length + 1;
        Ok(std::str::from_utf8(&rest[..length]).map_err(|_| "damaged: a name in it is not UTF-8")?)
    }
}
